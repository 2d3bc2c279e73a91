"""Exports a `.tflite` file with a prefill and a decode signature."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.export.card import (
    MAX_RELATIVE_ERROR,
    ExportCard,
    Logits,
    card_path,
    logit_error,
)
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.graphs import (
    FoldedKernels,
    cache_names,
    caches_of,
    checked_lengths,
    float32_model,
    keras_logits,
    named_caches,
    trace,
    write_signatures,
)
from spdf_keras.export.runners.run_tflite import TFLiteModel
from spdf_keras.export.runtimes import (
    TFLITE_DENSE_RUNTIMES,
    TFLITE_SPARSE_RUNTIMES,
)
from spdf_keras.export.tflite.sparse_encoding import SparseReport, sparse_encode
from spdf_keras.model.decoding.passes import decode, prefill, project
from spdf_keras.model.gpt import GPT

QUANTIZATIONS = ("none", "fp16", "int8")

# Bytes of a kernel's entry, and the error that is allowed, of the largest logit.
_VALUE_BYTES = {"none": 4, "fp16": 2, "int8": 1}
_ALLOWED = {"none": MAX_RELATIVE_ERROR, "fp16": 0.01, "int8": 0.15}

_LOADING_NOTE = "Loading takes longer and memory is at least that of the dense file."
_NOT_ENCODED_NOTE = (
    "No weight had enough zeros to become smaller: this is the dense file."
)
_INT8_NOTES = {
    False: "Kernels and activations are multiplied in int8; the token table is stored "
    "twice, by token and by tensor scaled.",
    True: "Encoded kernels are multiplied in float32, at its speed: with int8 sparse "
    "weights of its own the runtime does not load.",
}

_DECODED_TOKENS = 4


def to_tflite(
    model: GPT,
    path: str | Path,
    sparse: bool = False,
    prompt_length: int = 0,
    cache_length: int = 0,
    overwrite: bool = False,
    quantize: str = "none",
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
        model: The model, sparse or stripped.
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

    Returns:
        Its size and error, measured on random prompts.

    Raises:
        InputError: If `model` is no GPT, an argument is out of range, or `path`
            exists.
        ExportError: If the file's logits are not the model's.
    """
    if quantize not in QUANTIZATIONS:
        raise InputError(
            f"`quantize` must be one of {', '.join(QUANTIZATIONS)}: of int4, blocks of "
            "zeros do not load, and whole rows lose the model's accuracy. Received: "
            f"quantize={quantize}."
        )
    model, notes = float32_model(model)
    context = model.embedding.max_sequence_length
    prompt_length, cache_length = checked_lengths(context, prompt_length, cache_length)
    with staged(path, overwrite, beside=card_path(path)) as stage:
        dense, kernels = _convert(model, (prompt_length, cache_length), quantize, stage)
        dense_size_bytes, report = len(dense), None
        if sparse:
            dense, report = sparse_encode(dense)
        stage.write_bytes(dense)
        del dense
        error, scale = logit_error(_run(stage, model), _ALLOWED[quantize])
        size = size_bytes(stage)
        with stage.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    encoded = bool(report and report.encoded)
    if quantize == "int8":
        notes = (*notes, _INT8_NOTES[encoded])
    card = ExportCard(
        format="tflite"
        + ("_sparse" if sparse else "")
        + (f"_{quantize}" if quantize != "none" else ""),
        path=str(path),
        size_bytes=size,
        dense_size_bytes=dense_size_bytes,
        bound_size_bytes=dense_size_bytes
        - kernels.redundant_bytes(_VALUE_BYTES[quantize]),
        sparsity=kernels.sparsity,
        max_abs_error=error,
        max_abs_logit=scale,
        vocabulary_size=model.embedding.vocabulary_size,
        sha256=checksum,
        notes=(*notes, *_notes(report)),
        runtimes=TFLITE_SPARSE_RUNTIMES if encoded else TFLITE_DENSE_RUNTIMES,
    )
    card.save(card_path(path))
    return card


def _convert(
    model: GPT, lengths: tuple[int, int], quantize: str, stage: Path
) -> tuple[bytes, FoldedKernels]:
    """The dense file, and the kernels in it."""
    kernels, sizes = FoldedKernels(model), model.sizes
    prompt_length, cache_length = lengths

    def run_prefill(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden, caches = prefill(model, token_ids, cache_length, kernels.tensors())
        return {"logits": project(model, hidden), **named_caches(caches)}

    def run_decode(
        token_ids: tf.Tensor, position: tf.Tensor, **named: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        caches = caches_of(named, sizes.num_layers)
        hidden, caches = decode(model, token_ids, position, caches, kernels.tensors())
        return {"logits": project(model, hidden), **named_caches(caches)}

    head_dim = sizes.hidden_dim // sizes.num_heads
    shape = (1, sizes.num_heads, cache_length, head_dim)
    cache_specs = {
        name: tf.TensorSpec(shape, name=name) for name in cache_names(sizes.num_layers)
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
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert(), kernels


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


def _notes(report: SparseReport | None) -> tuple[str, ...]:
    if report is None:
        return ()
    if not report.encoded:
        return (_NOT_ENCODED_NOTE,)
    return (
        _LOADING_NOTE,
        f"{report.encoded} weights encoded, {report.kept} kept dense; "
        f"{report.densify_ops} DENSIFY operators, one per weight and signature.",
    )
