"""Exports a `.tflite` file with a prefill and a decode signature."""

import hashlib
from pathlib import Path

from spdf_keras.errors import InputError
from spdf_keras.export.card import ExportCard, card_path
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.graphs import FoldedKernels, checked_lengths, float32_model
from spdf_keras.export.runtimes import (
    TFLITE_DENSE_RUNTIMES,
    TFLITE_SPARSE_RUNTIMES,
)
from spdf_keras.export.sources import load_source, resolve_source
from spdf_keras.export.tflite.check import check_logits
from spdf_keras.export.tflite.conversion import (
    VALUE_BYTES,
    check_quantization,
    convert,
    suffix,
    write,
)
from spdf_keras.export.tflite.signatures import LOGITS, TFLitePlan, trace_signatures
from spdf_keras.model.gpt import GPT
from spdf_keras.training.run import Run


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
    logits: str = "last",
) -> ExportCard:
    """Writes a `.tflite` file that continues prompts with a cache.

    All shapes are fixed, as free ones cost the runtime's fast path. In both
    signatures `k_0, v_0, k_1, ...` are the caches, one pair per block, float32
    `(1, num_heads, cache_length, head_dim)`; token ids and positions are int32.

    - `prefill`: `token_ids` `(1, prompt_length)`, padded at the right, and `lengths`
      `(1,)`, the tokens before the padding, to `logits` `(1, 1, vocabulary_size)` after
      the last of these tokens and the caches.
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
        logits: `last` projects the last token of a prompt alone, which is all that a
            continuation needs. With `all`, `prefill` takes no `lengths`, and its
            `logits` are `(1, prompt_length, vocabulary_size)`.

    Returns:
        The card, with size and error measured on random prompts.

    Raises:
        InputError: If `model` is unknown, an argument is out of range, or `path`
            exists.
        ExportError: If the file's logits are not the model's.
    """
    check_quantization(quantize)
    if logits not in LOGITS:
        raise InputError(
            f"`logits` must be one of {', '.join(LOGITS)}: the tokens that prefill "
            f"projects. Received: logits={logits}."
        )
    source = resolve_source(model, sparsity)
    gpt, notes = float32_model(load_source(source, sparsity))
    context = gpt.embedding.max_sequence_length
    lengths = checked_lengths(context, prompt_length, cache_length)
    plan = TFLitePlan(*lengths, logits)
    with staged(path, overwrite, beside=card_path(path)) as stage:
        kernels = FoldedKernels(gpt)
        content = _convert(gpt, kernels, plan, quantize, stage)
        encoding = write(content, stage, sparse, quantize)
        del content
        error, scale = check_logits(stage, gpt, quantize)
        size = size_bytes(stage)
        with stage.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    card = ExportCard(
        format=f"tflite{suffix(sparse, quantize)}",
        path=str(path),
        size_bytes=size,
        dense_size_bytes=encoding.dense_size_bytes,
        bound_size_bytes=encoding.dense_size_bytes
        - kernels.redundant_bytes(VALUE_BYTES[quantize]),
        sparsity=kernels.sparsity,
        max_abs_error=error,
        max_abs_logit=scale,
        vocabulary_size=gpt.embedding.vocabulary_size,
        sha256=checksum,
        notes=(*notes, *encoding.notes),
        runtimes=TFLITE_SPARSE_RUNTIMES if encoding.encoded else TFLITE_DENSE_RUNTIMES,
    )
    card.save(card_path(path))
    return card


def _convert(
    model: GPT, kernels: FoldedKernels, plan: TFLitePlan, quantize: str, stage: Path
) -> bytes:
    """Makes the dense file."""
    return convert(trace_signatures(model, kernels, plan), quantize, stage)
