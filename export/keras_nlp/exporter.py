"""Exports presets of KerasNLP's GPT-2."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spdf_keras.errors import ExportError
from spdf_keras.export.card import ExportCard, card_path, logit_error
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.graphs import FoldedKernels, float32_model, keras_logits
from spdf_keras.export.runtimes import KERAS_NLP_RUNTIMES
from spdf_keras.export.sources import (
    check_tokenizer,
    load_source,
    resolve_separator,
    resolve_source,
)
from spdf_keras.export.targets import KNOWN_BY
from spdf_keras.interchange.keras_nlp.model import check_sizes, to_keras_nlp
from spdf_keras.interchange.keras_nlp.weights import quiet_walk
from spdf_keras.keras2 import keras
from spdf_keras.training.run import Run

if TYPE_CHECKING:
    from spdf_keras.data.tokenizers.bpe import Tokenizer
    from spdf_keras.model.gpt import GPT

_END_IS_PADDING = (
    "The end-of-text token has the id 0, with which KerasNLP pads prompts: call its "
    "`generate` with stop_token_ids=None, or it takes the padding for the end."
)
# Where KerasNLP looks for the files of a tokenizer.
_ASSETS = Path("assets", "tokenizer")


def to_keras_nlp_preset(
    model: "GPT | Run | str | Path",
    path: str | Path,
    overwrite: bool = False,
    *,
    sparsity: float | None = None,
    tokenizer: "Tokenizer | None" = None,
) -> ExportCard:
    """Writes a preset of KerasNLP's GPT-2.

    Masks are folded into the weights; zeros are stored in place.

        model = keras_nlp.models.GPT2CausalLM.from_preset(path)

    KerasNLP writes presets with Keras 3 alone; this one was written, and is loaded for
    the check, with Keras 2. Its `generate` puts `<|endoftext|>` before each text.

    Args:
        model: A GPT, sparse or stripped, a `Run` or its folder (its newest or best
            checkpoint), or a preset's name (its initial weights).
        path: Folder to write; its parents are made.
        overwrite: Replace an export that is there.
        sparsity: For a preset, sparsity of its masks.
        tokenizer: The model's tokenizer; that of the run if None.

    Returns:
        The card, with the error measured on random prompts.

    Raises:
        InputError: If `model` is unknown, is none that KerasNLP's GPT-2 can compute,
            or has weights that are not finite, the tokenizer does not fit it, or
            `path` exists.
        ExportError: If the preset's logits are not the model's.
    """
    resolved = resolve_source(model, sparsity)
    if isinstance(resolved, Run):
        tokenizer = tokenizer or resolved.tokenizer()
        check_sizes(resolved.config().model)
    with staged(path, overwrite, folder_with=KNOWN_BY["keras_nlp"]) as stage:
        gpt, notes = float32_model(load_source(resolved, sparsity))
        if tokenizer is None:
            note = "There is no tokenizer: give `tokenizer`, or export a run."
            notes = (*notes, note)
        else:
            check_tokenizer(tokenizer, gpt.sizes.vocabulary_size)
            if tokenizer.end_token_id == 0:
                notes = (*notes, _END_IS_PADDING)
        _write(to_keras_nlp(gpt, tokenizer), stage)
        error, scale = _check(stage, gpt, tokenizer is not None)
        kernels, size = FoldedKernels(gpt), size_bytes(stage)
        card = ExportCard(
            format="keras_nlp",
            path=str(path),
            size_bytes=size,
            dense_size_bytes=size,
            bound_size_bytes=size - kernels.redundant_bytes(),
            sparsity=kernels.sparsity,
            max_abs_error=error,
            max_abs_logit=scale,
            vocabulary_size=gpt.sizes.vocabulary_size,
            separator=resolve_separator(resolved),
            notes=notes,
            runtimes=KERAS_NLP_RUNTIMES,
        )
        card.save(card_path(stage))
    return card


def _write(model: Any, stage: Path) -> None:
    """Writes the files of `save_to_preset`, which refuses Keras 2."""
    from keras_nlp import __version__

    stage.mkdir()
    backbone, preprocessor = model.backbone, model.preprocessor
    parts = {"config": backbone}
    if preprocessor is not None:
        parts |= {"preprocessor": preprocessor, "tokenizer": preprocessor.tokenizer}
        (stage / _ASSETS).mkdir(parents=True)
        preprocessor.tokenizer.save_assets(str(stage / _ASSETS))
    for name, part in parts.items():
        about = keras.saving.serialize_keras_object(part)
        for needless in ("compile_config", "build_config"):
            _remove(about, needless)
        _write_json(stage / f"{name}.json", about)
    metadata = {
        "keras_version": keras.__version__,
        "keras_nlp_version": __version__,
        "parameter_count": backbone.count_params(),
        "date_saved": datetime.now(UTC).strftime("%Y-%m-%d@%H:%M:%S"),
    }
    _write_json(stage / "metadata.json", metadata)
    with quiet_walk():
        backbone.save_weights(str(stage / KNOWN_BY["keras_nlp"]))


def _remove(about: dict[str, Any], key: str) -> None:
    about.pop(key, None)
    for value in about.values():
        if isinstance(value, dict):
            _remove(value, key)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=4) + "\n", "utf-8")


def _check(stage: Path, gpt: "GPT", has_tokenizer: bool) -> tuple[float, float]:
    """Loads the preset as a user does, and compares its logits with the model's."""
    from keras_nlp.models import GPT2CausalLM

    options = {} if has_tokenizer else {"preprocessor": None}
    try:
        with quiet_walk():
            loaded = GPT2CausalLM.from_preset(str(stage), **options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"KerasNLP does not load the preset: {error}. Nothing was written."
        ) from error
    sizes = gpt.sizes
    length = min(sizes.max_sequence_length, 64)
    token_ids = np.random.default_rng(0).integers(
        sizes.vocabulary_size, size=(2, length), dtype=np.int32
    )
    inputs = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}
    received = loaded(inputs).numpy()
    return logit_error([(keras_logits(gpt, token_ids), received)])
