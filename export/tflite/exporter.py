"""Exports a `.tflite` file with a prefill and a decode signature."""

from pathlib import Path

from spdf_keras.errors import InputError
from spdf_keras.export.card import ExportCard, card_path
from spdf_keras.export.files import checksum, size_bytes, staged
from spdf_keras.export.graphs import FoldedKernels, checked_lengths, float32_model
from spdf_keras.export.runtimes import litert_runtimes
from spdf_keras.export.sources import (
    load_source,
    resolve_separator,
    resolve_source,
)
from spdf_keras.export.tflite.check import check_logits
from spdf_keras.export.tflite.conversion import (
    VALUE_BYTES,
    check_quantization,
    convert,
    suffix,
    write,
)
from spdf_keras.export.tflite.signatures import (
    CACHE_OUTPUTS,
    LOGITS,
    TFLitePlan,
    trace_signatures,
)
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
    cache_outputs: str = "whole",
    separator: bool | None = None,
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
        cache_outputs: `whole` lets `decode` return the caches for the next call. With
            `row` it returns the token's own entries, `new_k_0, new_v_0, ...`, each `(1,
            num_heads, 1, head_dim)`, which the caller writes into its caches at
            `position`. That saves a copy of all caches per token.
        separator: For the card: whether texts are closed and end as in fine-tuning,
            which `run_tflite.py --prompt` does then. None asks the run.

    Returns:
        The card, with size and error measured on random prompts.

    Raises:
        InputError: If `model` is unknown, an argument is out of range, or `path`
            exists.
        ExportError: If the file's logits are not the model's.
    """
    check_quantization(quantize)
    for name, value, values in (
        ("logits", logits, LOGITS),
        ("cache_outputs", cache_outputs, CACHE_OUTPUTS),
    ):
        if value not in values:
            raise InputError(
                f"`{name}` must be one of {', '.join(values)}. Received: "
                f"{name}={value}."
            )
    source = resolve_source(model, sparsity)
    with staged(path, overwrite, beside=card_path(path)) as stage:
        gpt, notes = float32_model(load_source(source, sparsity))
        context = gpt.embedding.max_sequence_length
        lengths = checked_lengths(context, prompt_length, cache_length)
        plan = TFLitePlan(*lengths, logits, cache_outputs)
        kernels = FoldedKernels(gpt)
        content = _convert(gpt, kernels, plan, quantize, stage)
        encoding = write(content, stage, sparse, quantize)
        del content
        error, scale = check_logits(stage, gpt, quantize)
        card = ExportCard(
            format=f"tflite{suffix(sparse, quantize)}",
            path=str(path),
            size_bytes=size_bytes(stage),
            dense_size_bytes=encoding.dense_size_bytes,
            bound_size_bytes=encoding.dense_size_bytes
            - kernels.redundant_bytes(VALUE_BYTES[quantize]),
            sparsity=kernels.sparsity,
            max_abs_error=error,
            max_abs_logit=scale,
            vocabulary_size=gpt.embedding.vocabulary_size,
            separator=resolve_separator(source, separator),
            sha256=checksum(stage),
            notes=(*notes, *encoding.notes),
            runtimes=litert_runtimes(encoding.encoded, quantize, kernels.sparsity),
        )
        card.save(stage.with_name(card_path(path).name))
    return card


def _convert(
    model: GPT, kernels: FoldedKernels, plan: TFLitePlan, quantize: str, stage: Path
) -> bytes:
    """Makes the dense file."""
    return convert(trace_signatures(model, kernels, plan), quantize, stage)
