"""Exports a `.tflite` file with a prefill and a decode signature."""

import hashlib
from pathlib import Path

import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.export.card import ExportCard, card_path
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.graphs import (
    FoldedKernels,
    checked_lengths,
    float32_model,
    write_signatures,
)
from spdf_keras.export.runtimes import (
    TFLITE_DENSE_RUNTIMES,
    TFLITE_SPARSE_RUNTIMES,
)
from spdf_keras.export.sources import load_source, resolve_source
from spdf_keras.export.tflite.check import check_logits
from spdf_keras.export.tflite.signatures import Lengths, trace_signatures
from spdf_keras.export.tflite.sparse_encoding import SparseReport, sparse_encode
from spdf_keras.model.gpt import GPT
from spdf_keras.training.run import Run

# Bytes of a kernel's entry.
_VALUE_BYTES = {"none": 4, "fp16": 2, "int8": 1}
QUANTIZATIONS = tuple(_VALUE_BYTES)

_LOADING_NOTE = "Loading takes longer, and memory is at least that of the dense file."
_NOT_ENCODED_NOTE = (
    "No weight had enough zeros to become smaller: this is the dense file."
)
_INT8_NOTES = {
    False: "Kernels and activations are multiplied in int8; the token table is stored "
    "twice, with one scale per token and with one for all.",
    True: "Encoded kernels are multiplied in float32, at its speed: the runtime does "
    "not load int8 sparse weights that int8 products read.",
}


def to_tflite(
    model: GPT | Run | str | Path,
    path: str | Path,
    sparse: bool = False,
    prompt_length: int = 0,
    cache_length: int = 0,
    overwrite: bool = False,
    quantize: str = "none",
    *,
    sparsity: float | None = None,
) -> ExportCard:
    """Writes a `.tflite` file that continues prompts with a cache.

    All shapes are fixed, as free ones cost the runtime's fast path. In both
    signatures `k_0, v_0, k_1, ...` are the caches, one pair per block, float32
    `(1, num_heads, cache_length, head_dim)`; token ids and positions are int32.

    - `prefill`: `token_ids` `(1, prompt_length)`, padded at the right, to `logits`
      `(1, prompt_length, vocabulary_size)` and the caches.
    - `decode`: `token_ids` `(1, 1)`, their `position` `(1,)` and the caches to
      `logits` `(1, 1, vocabulary_size)` and the caches.

    Masks are folded into the kernels, and only built-in operators occur.
    `run_tflite.py` shows how to run it with nothing but the runtime.

    Args:
        model: A GPT, sparse or stripped, a `Run` or its folder (its newest or best
            checkpoint), or a preset's name (its initial weights).
        path: File to write; its parent folders are made.
        sparse: Store the zeros as an index instead of as numbers. At 75 % a float32
            weight takes 0.38 of its bytes, float16 0.5, int8 0.75; it is not computed
            faster. A weight that would grow stays dense.
        prompt_length: Longest prompt; 0 is 64, or the cache where that is shorter.
        cache_length: Longest sequence, prompt and continuation; 0 is the context.
        overwrite: Replace a file that is there.
        quantize: `fp16` stores weights in half the bytes and computes in float32.
            `int8` stores them in a quarter, and multiplies in int8 where they are
            not `sparse`; its error is some percent of the largest logit.
        sparsity: For a preset, sparsity of its masks.

    Returns:
        The card, with size and error measured on random prompts.

    Raises:
        InputError: If `model` is unknown, an argument is out of range, or `path`
            exists.
        ExportError: If the file's logits are not the model's.
    """
    if quantize not in QUANTIZATIONS:
        raise InputError(
            f"`quantize` must be one of {', '.join(QUANTIZATIONS)}: of int4, blocks of "
            "zeros do not load, and whole rows lose the model's accuracy. Received: "
            f"quantize={quantize}."
        )
    source = resolve_source(model, sparsity)
    with staged(path, overwrite, beside=card_path(path)) as stage:
        gpt, notes = float32_model(load_source(source, sparsity))
        context = gpt.embedding.max_sequence_length
        lengths = Lengths(*checked_lengths(context, prompt_length, cache_length))
        kernels = FoldedKernels(gpt)
        content = _convert(gpt, kernels, lengths, quantize, stage)
        dense_size_bytes, report = len(content), None
        if sparse:
            content, report = sparse_encode(content)
        stage.write_bytes(content)
        del content
        error, scale = check_logits(stage, gpt, quantize)
        encoded = bool(report and report.encoded)
        if quantize == "int8":
            notes = (*notes, _INT8_NOTES[encoded])
        card = ExportCard(
            format="tflite"
            + ("_sparse" if sparse else "")
            + (f"_{quantize}" if quantize != "none" else ""),
            path=str(path),
            size_bytes=size_bytes(stage),
            dense_size_bytes=dense_size_bytes,
            bound_size_bytes=dense_size_bytes
            - kernels.redundant_bytes(_VALUE_BYTES[quantize]),
            sparsity=kernels.sparsity,
            max_abs_error=error,
            max_abs_logit=scale,
            vocabulary_size=gpt.embedding.vocabulary_size,
            sha256=_checksum(stage),
            notes=(*notes, *_notes(report)),
            runtimes=TFLITE_SPARSE_RUNTIMES if encoded else TFLITE_DENSE_RUNTIMES,
        )
        card.save(stage.with_name(card_path(path).name))
    return card


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(
    model: GPT, kernels: FoldedKernels, lengths: Lengths, quantize: str, stage: Path
) -> bytes:
    """Makes the dense file."""
    functions = trace_signatures(model, kernels, lengths)
    intermediate = stage.with_name(f"{stage.name}.saved_model")
    write_signatures(functions, intermediate)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(intermediate), signature_keys=list(functions)
    )
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


def _notes(report: SparseReport | None) -> tuple[str, ...]:
    if report is None:
        return ()
    if not report.encoded:
        return (_NOT_ENCODED_NOTE,)
    return (
        _LOADING_NOTE,
        f"{report.encoded} weights are encoded, {report.kept} are dense; the file has "
        f"{report.densify_ops} DENSIFY operators, one per weight and signature.",
    )
