"""Exports a `.tflite` file with a prefill and a decode signature."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.export.card import ExportCard, Logits, logit_error
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.run_tflite import TFLiteModel
from spdf_keras.export.saved_model import (
    FoldedKernels,
    float32_model,
    keras_logits,
    trace,
    write_signatures,
    zeros_notes,
)
from spdf_keras.export.sparse_encoding import SparseReport, sparse_encode
from spdf_keras.model.block import Cache
from spdf_keras.model.generation import decode, prefill, project
from spdf_keras.model.gpt import GPT

_SPARSE_NOTES = (
    "A smaller file, not a faster one: the runtime unpacks the weights to dense "
    "ones when it loads the file, and multiplies the zeros.",
    "Loading takes longer and memory is at least that of the dense file.",
)
_NOT_ENCODED_NOTE = (
    "No weight had enough zeros to become smaller: this is the dense file."
)

_PROMPT_LENGTH = 64
_DECODED_TOKENS = 4


def to_tflite(
    model: GPT,
    path: str | Path,
    sparse: bool = False,
    prompt_length: int = 0,
    cache_length: int = 0,
    overwrite: bool = False,
) -> ExportCard:
    """Writes a float32 `.tflite` file that continues prompts with a cache.

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
        model: The model, sparse or stripped.
        path: File to write; its parent folders are made.
        sparse: Store the zeros as an index instead of as numbers. At 75 % a weight
            takes 0.38 of its bytes; it is not computed faster.
        prompt_length: Longest prompt; 0 is 64, or the cache where that is shorter.
        cache_length: Longest sequence, prompt and continuation; 0 is the context.
        overwrite: Replace a file that is there.

    Returns:
        Its size and error, measured on random prompts.

    Raises:
        InputError: If `model` is no GPT, a length is out of range, or `path` exists.
        ExportError: If the file's logits are not the model's.
    """
    model, notes = float32_model(model)
    prompt_length, cache_length = _checked_lengths(model, prompt_length, cache_length)
    with staged(path, overwrite) as stage:
        dense, sparsity = _convert(model, prompt_length, cache_length, stage)
        dense_size_bytes, report = len(dense), None
        if sparse:
            dense, report = sparse_encode(dense)
        stage.write_bytes(dense)
        del dense
        error, scale = logit_error(_run(stage, model))
        size = size_bytes(stage)
    return ExportCard(
        format="tflite_sparse" if sparse else "tflite",
        path=str(path),
        size_bytes=size,
        dense_size_bytes=dense_size_bytes,
        sparsity=sparsity,
        max_abs_error=error,
        max_abs_logit=scale,
        notes=(*notes, *_notes(report, sparsity)),
    )


def _checked_lengths(
    model: GPT, prompt_length: int, cache_length: int
) -> tuple[int, int]:
    context = model.embedding.max_sequence_length
    cache_length = cache_length or context
    if not 1 <= cache_length <= context:
        raise InputError(
            f"`cache_length` must be in [1, {context}], the context. "
            f"Received: cache_length={cache_length}."
        )
    prompt_length = prompt_length or min(_PROMPT_LENGTH, cache_length)
    if not 1 <= prompt_length <= cache_length:
        raise InputError(
            f"`prompt_length` must be in [1, {cache_length}], the cache's length. "
            f"Received: prompt_length={prompt_length}."
        )
    return prompt_length, cache_length


def _convert(
    model: GPT, prompt_length: int, cache_length: int, stage: Path
) -> tuple[bytes, float]:
    """The dense file, and the kernels' sparsity."""
    kernels, sizes = FoldedKernels(model), model.sizes

    def run_prefill(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden, caches = prefill(model, token_ids, cache_length, kernels.tensors())
        return {"logits": project(model, hidden), **_named(caches)}

    def run_decode(
        token_ids: tf.Tensor, position: tf.Tensor, **named: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        caches = [(named[f"k_{i}"], named[f"v_{i}"]) for i in range(sizes.num_layers)]
        hidden, caches = decode(model, token_ids, position, caches, kernels.tensors())
        return {"logits": project(model, hidden), **_named(caches)}

    head_dim = sizes.hidden_dim // sizes.num_heads
    shape = (1, sizes.num_heads, cache_length, head_dim)
    cache_specs = {
        name: tf.TensorSpec(shape, name=name)
        for index in range(sizes.num_layers)
        for name in (f"k_{index}", f"v_{index}")
    }
    functions = {
        "prefill": trace(
            run_prefill, tf.TensorSpec((1, prompt_length), tf.int32, "token_ids")
        ),
        "decode": trace(
            run_decode,
            tf.TensorSpec((1, 1), tf.int32, "token_ids"),
            tf.TensorSpec((1,), tf.int32, "position"),
            **cache_specs,
        ),
    }
    intermediate = stage.with_name(f"{stage.name}.saved_model")
    write_signatures(functions, intermediate)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(intermediate), signature_keys=list(functions)
    )
    return converter.convert(), kernels.sparsity


def _named(caches: list[Cache]) -> dict[str, tf.Tensor]:
    return {
        f"{letter}_{index}": part
        for index, cache in enumerate(caches)
        for letter, part in zip("kv", cache, strict=True)
    }


def _run(path: Path, model: GPT) -> Iterator[tuple[Logits, Logits]]:
    """Logits of both signatures: a full prompt, and a padded one with more tokens."""
    runner, random = TFLiteModel(path), np.random.default_rng(0)
    full = runner.prompt_length
    for prompt in (full, max(1, full // 2)):
        length = min(prompt + _DECODED_TOKENS, runner.cache_length)
        token_ids = random.integers(runner.vocabulary_size, size=length).tolist()
        expected: Any = keras_logits(model, [token_ids])[0]
        received, caches = runner.prefill(token_ids[:prompt])
        yield expected[:prompt], received
        for position in range(prompt, length):
            received, caches = runner.decode(token_ids[position], position, caches)
            yield expected[position], received


def _notes(report: SparseReport | None, sparsity: float) -> tuple[str, ...]:
    if report is None:
        return zeros_notes(sparsity)
    if not report.encoded:
        return (_NOT_ENCODED_NOTE,)
    return (
        *_SPARSE_NOTES,
        f"{report.encoded} weights encoded, {report.kept} kept dense; "
        f"{report.densify_ops} DENSIFY operators, one per weight and signature.",
    )
