"""Exports a model to a file that runs elsewhere.

    from spdf_keras.export import to_huggingface, to_saved_model, to_tflite, to_xla

    card = to_tflite(model, "gpt.tflite", sparse=True)
    card.size_bytes, card.dense_size_bytes, card.relative_error, card.notes

All exporters take a GPT, a run or its folder, or a preset's name. The programs in
`runners/` run the artefacts, each with the runtime and NumPy alone. The page
`docs/guides/export.md` describes the formats.

Every artefact is run before it is delivered: its logits are compared with the
model's, and the card gives the difference. Importing this package loads nothing; the
first use of a name below does.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spdf_keras.errors import ExportError
    from spdf_keras.export.card import ExportCard
    from spdf_keras.export.huggingface.exporter import to_huggingface
    from spdf_keras.export.keras_nlp.exporter import to_keras_nlp_preset
    from spdf_keras.export.litertlm.exporter import to_litertlm
    from spdf_keras.export.peft.exporter import to_peft
    from spdf_keras.export.saved_model.exporter import to_saved_model
    from spdf_keras.export.saved_model.text_model import to_text_model
    from spdf_keras.export.tflite.exporter import to_tflite
    from spdf_keras.export.xla.exporter import to_xla
    from spdf_keras.measuring.artefacts.measure import compare_artefacts
    from spdf_keras.native.build import library_path

_HOMES = {
    "ExportCard": "spdf_keras.export.card",
    "ExportError": "spdf_keras.errors",
    "compare_artefacts": "spdf_keras.measuring.artefacts.measure",
    "to_huggingface": "spdf_keras.export.huggingface.exporter",
    "to_keras_nlp_preset": "spdf_keras.export.keras_nlp.exporter",
    "to_litertlm": "spdf_keras.export.litertlm.exporter",
    "library_path": "spdf_keras.native.build",
    "to_peft": "spdf_keras.export.peft.exporter",
    "to_saved_model": "spdf_keras.export.saved_model.exporter",
    "to_text_model": "spdf_keras.export.saved_model.text_model",
    "to_tflite": "spdf_keras.export.tflite.exporter",
    "to_xla": "spdf_keras.export.xla.exporter",
}

__all__ = [
    "ExportCard",
    "ExportError",
    "compare_artefacts",
    "library_path",
    "to_huggingface",
    "to_keras_nlp_preset",
    "to_litertlm",
    "to_peft",
    "to_saved_model",
    "to_text_model",
    "to_tflite",
    "to_xla",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'spdf_keras.export' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
