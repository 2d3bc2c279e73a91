"""Exports checkpoints in Hugging Face's layout: dense weights, and the masks beside."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spdf_keras.config import DecodeConfig
from spdf_keras.errors import ExportError
from spdf_keras.evaluation.texts import end_token_ids
from spdf_keras.export.bitmask import information_bound
from spdf_keras.export.card import ExportCard, card_path
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.huggingface.model_card import model_card
from spdf_keras.export.runtimes import HUGGINGFACE_RUNTIMES
from spdf_keras.export.sources import (
    check_tokenizer,
    resolve_separator,
    resolve_source,
)
from spdf_keras.export.targets import KNOWN_BY
from spdf_keras.export.weights import WeightSource, require_finite
from spdf_keras.interchange.huggingface import generation, masks, settings
from spdf_keras.interchange.huggingface.names import PREFIX, tensors
from spdf_keras.interchange.huggingface.tensors import FILE, StoredTensors
from spdf_keras.interchange.huggingface.tokenizer import write_tokenizer
from spdf_keras.interchange.json_files import read_json
from spdf_keras.safetensors_file import safetensors_writer
from spdf_keras.training.run import Run

if TYPE_CHECKING:
    from spdf_keras.data.tokenizers.bpe import Tokenizer
    from spdf_keras.model.gpt import GPT

_NOTES = (
    "The files were read back, and every weight has the bits of the model's. They were "
    "not run, as transformers is no dependency of this package.",
    "Zeros are stored in place: a loader sees a dense GPT-2.",
)


@dataclass
class _Counts:
    """Entries and zeros of the kernels, as they were written."""

    size: int = 0
    zeros: int = 0
    redundant_bytes: float = 0.0

    def add(self, kernel: np.ndarray) -> None:
        kept = int(np.count_nonzero(kernel))
        self.size += kernel.size
        self.zeros += kernel.size - kept
        self.redundant_bytes += kernel.nbytes
        self.redundant_bytes -= information_bound(kernel.size, kept, kernel.itemsize)


def to_huggingface(
    model: "GPT | Run | str | Path",
    path: str | Path,
    overwrite: bool = False,
    *,
    sparsity: float | None = None,
    tokenizer: "Tokenizer | None" = None,
) -> ExportCard:
    """Writes a GPT-2 checkpoint that `transformers` and other GPT-2 loaders read.

    The folder has `model.safetensors` (float32, zeros in place), `config.json`,
    `generation_config.json` with the run's `[decode]` settings, the tokenizer in the
    files of transformers, a `README.md` that says what the model is, and for a sparse
    model `masks.safetensors`, by which `from_huggingface` restores the masks:

        model = transformers.AutoModelForCausalLM.from_pretrained(path)

    Args:
        model: A GPT, sparse or stripped, a `Run` or its folder (its newest or best
            checkpoint), or a preset's name (its initial weights).
        path: Folder to write; its parents are made.
        overwrite: Replace an export that is there.
        sparsity: For a preset, sparsity of its masks.
        tokenizer: The model's tokenizer; that of the run if None.

    Returns:
        The card. Its error is None, since the folder was read back and not run.

    Raises:
        InputError: If `model` is unknown or has weights that are not finite, the
            tokenizer does not fit it, or `path` exists.
        ExportError: If a weight or mask that was read back is not the model's.
    """
    resolved = resolve_source(model, sparsity)
    source = WeightSource.of(resolved, sparsity)
    decode = DecodeConfig()
    if isinstance(resolved, Run):
        tokenizer = tokenizer or resolved.tokenizer()
        decode = resolved.config().decode
    separator = resolve_separator(resolved)
    notes = list(_NOTES)
    ends: list[int] = []
    if tokenizer is None:
        notes.append("There is no tokenizer: give `tokenizer`, or export a run.")
    else:
        check_tokenizer(tokenizer, source.sizes.vocabulary_size)
        ends = end_token_ids(tokenizer) if separator else [tokenizer.end_token_id]
    with staged(path, overwrite, folder_with=KNOWN_BY["huggingface"]) as stage:
        stage.mkdir()
        counts = _write_weights(source, stage / FILE)
        if source.sparsity:
            masks.write_masks(
                stage / masks.FILE, source.sizes, source.mask, source.mask_settings
            )
        if tokenizer is not None:
            context = source.sizes.max_sequence_length
            write_tokenizer(tokenizer, stage, context)
        end = ends[0] if ends else None
        _write_json(stage / settings.FILE, settings.to_fields(source.sizes, end))
        _write_json(stage / generation.FILE, generation.to_fields(decode, ends))
        _check(source, stage)
        text = model_card(
            source,
            resolved if isinstance(resolved, Run) else None,
            name=Path(path).resolve().name,
            zeros=counts.zeros,
            size=counts.size,
            has_tokenizer=tokenizer is not None,
            separator=bool(separator),
        )
        (stage / "README.md").write_text(text, "utf-8")
        size = size_bytes(stage)
        card = ExportCard(
            format="huggingface",
            path=str(path),
            size_bytes=size,
            dense_size_bytes=size,
            bound_size_bytes=size - round(counts.redundant_bytes),
            sparsity=counts.zeros / counts.size,
            max_abs_error=None,
            max_abs_logit=None,
            vocabulary_size=source.sizes.vocabulary_size,
            separator=separator,
            notes=tuple(notes),
            runtimes=HUGGINGFACE_RUNTIMES,
        )
        card.save(card_path(stage))
    return card


def _write_weights(source: WeightSource, file: Path) -> _Counts:
    counts = _Counts()
    # transformers refuses a file that does not say which library's it is.
    about = {"format": "pt"}
    with safetensors_writer(file, len(source.shapes), about) as writer:
        for tensor in tensors(source.sizes):
            parts = [source.exact(path) for path in tensor.paths]
            for path, part in zip(tensor.paths, parts, strict=True):
                require_finite(path, part)
                if tensor.is_kernel:
                    counts.add(part)
            writer.add(PREFIX + tensor.name, tensor.join(parts))
    return counts


def _write_json(file: Path, content: dict[str, object]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _check(source: WeightSource, stage: Path) -> None:
    """Reads the folder back, and compares every bit."""
    file = stage / settings.FILE
    sizes = settings.read_sizes(read_json(file, "the settings"), file)
    stored = StoredTensors(stage)
    stored.check(sizes)
    _, read_masks = masks.read_masks(stage, sizes)
    for tensor in tensors(sizes):
        for path, value in stored.read(tensor).items():
            mask, own = source.mask(path), read_masks.get(path)
            same = np.array_equal(_bits(value), _bits(source.exact(path)))
            if mask is None or own is None:
                same = same and mask is own
            else:
                same = same and np.array_equal(mask, own)
            if not same or sizes != source.sizes:
                raise ExportError(
                    f"The exported weight '{path}' is not the model's when it is read "
                    "back. Nothing was written."
                )


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint32)
