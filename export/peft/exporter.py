"""Exports the adapter of a fine-tuning with LoRA as PEFT writes one."""

import json
from pathlib import Path

import numpy as np

from spdf_keras.adapters.adapter import Adapter, require_lora
from spdf_keras.adapters.attach import adapt
from spdf_keras.adapters.peft import FILE, load_adapter, to_peft_files
from spdf_keras.adapters.peft_config import FILE as CONFIG_FILE
from spdf_keras.errors import InputError
from spdf_keras.export.card import ExportCard, card_path, logit_error
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.graphs import keras_logits
from spdf_keras.export.runtimes import PEFT_RUNTIMES
from spdf_keras.export.sources import load_source, resolve_source
from spdf_keras.export.targets import KNOWN_BY
from spdf_keras.export.weights import require_finite
from spdf_keras.model.gpt import GPT
from spdf_keras.training.run import Run

_NOTES = (
    "The folder holds the adapter alone: PEFT puts it beside the base model, which is "
    "exported by itself. W = W * M holds for the base, and not for base and adapter "
    "merged.",
    "The error is that of the adapter as it was read back, in Keras: PEFT is no "
    "dependency of this package, and has not run it.",
)
_COMPARED_TOKENS = 64


def to_peft(
    model: GPT | Run | str | Path,
    path: str | Path,
    overwrite: bool = False,
    *,
    sparsity: float | None = None,
    base_model: str = "",
) -> ExportCard:
    """Writes the adapter of a model for PEFT, on GPT-2 of Hugging Face.

    The folder has `adapter_model.safetensors` and `adapter_config.json`. Adapters of
    query, key and value, which are one matrix there, are written as one; its rank is
    the sum of theirs, and alpha over rank stays.

        base = transformers.AutoModelForCausalLM.from_pretrained(base_model)
        model = peft.PeftModel.from_pretrained(base, path)

    Args:
        model: A GPT with an adapter, or the `Run` or folder of a fine-tuning with LoRA.
        path: Folder to write; its parents are made.
        overwrite: Replace an export that is there.
        sparsity: It must be None, as in every export of a run.
        base_model: Name or folder of the base, by which PEFT finds it; for a run, the
            name of the run that was fine-tuned if empty.

    Returns:
        The card. Its sizes are those of the adapter, its sparsity that of the base.

    Raises:
        InputError: If `model` has no adapter, a weight is not finite, or `path` exists.
        ExportError: If the adapter computes other logits when it is read back.
    """
    source = resolve_source(model, sparsity, adapted=True)
    if isinstance(source, str):
        raise InputError(
            "`model` must be a fine-tuning with LoRA, which has an adapter. Received: "
            f"the preset {source}."
        )
    if isinstance(source, Run):
        if source.adapter_settings() is None:
            raise InputError(
                "`model` must be a fine-tuning with LoRA, as `spdf-keras finetune "
                f"--lora` makes one. Received: '{source.folder}', which has no adapter."
            )
        base_model = base_model or source.origin()["base"]["folder"]
    with staged(path, overwrite, folder_with=KNOWN_BY["peft"]) as stage:
        gpt = load_source(source)
        require_lora(gpt)
        for name, weight in gpt.named_adapters().items():
            require_finite(name, weight.numpy())
        stage.mkdir()
        _write(Adapter.of(gpt), stage, base_model)
        error, scale = logit_error([_logits(gpt, stage)])
        size = size_bytes(stage)
        card = ExportCard(
            format="peft",
            path=str(path),
            size_bytes=size,
            dense_size_bytes=size,
            bound_size_bytes=size,
            sparsity=gpt.sparsity,
            max_abs_error=error,
            max_abs_logit=scale,
            vocabulary_size=gpt.sizes.vocabulary_size,
            notes=_NOTES,
            runtimes=PEFT_RUNTIMES,
        )
        card.save(card_path(stage))
    return card


def _write(adapter: Adapter, folder: Path, base_model: str) -> None:
    from safetensors.numpy import save_file

    tensors, about, config = to_peft_files(adapter, base_model)
    save_file(tensors, folder / FILE, about)
    text = json.dumps(config, indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, "utf-8")
    # safetensors lets nobody else read its files, whatever the umask says.
    (folder / FILE).chmod((folder / CONFIG_FILE).stat().st_mode & 0o777)


def _logits(model: GPT, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Computes the model's logits, and those with the adapter that was written."""
    length = min(_COMPARED_TOKENS, model.sizes.max_sequence_length)
    random = np.random.default_rng(0)
    token_ids = random.integers(model.sizes.vocabulary_size, size=(2, length))
    read = adapt(model, load_adapter(folder))
    return keras_logits(model, token_ids), keras_logits(read, token_ids)
