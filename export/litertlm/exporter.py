"""Exports a bundle that LiteRT-LM runs."""

import hashlib
from pathlib import Path

from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import ExportError, InputError
from spdf_keras.export.card import ExportCard, card_path
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.graphs import FoldedKernels, checked_lengths, float32_model
from spdf_keras.export.litertlm.bundle import check_path, require_builder, write_bundle
from spdf_keras.export.litertlm.check import NOT_RUN_NOTE, check_logits, check_texts
from spdf_keras.export.litertlm.signatures import prefill_lengths, trace_signatures
from spdf_keras.export.runtimes import LITERTLM_RUNTIMES
from spdf_keras.export.sources import (
    check_tokenizer,
    load_source,
    resolve_source,
    resolve_tokenizer,
)
from spdf_keras.export.tflite.conversion import (
    VALUE_BYTES,
    check_quantization,
    convert,
    suffix,
    write,
)
from spdf_keras.model.gpt import GPT
from spdf_keras.training.run import Run

# A prompt's token, the separator, a new token and one to spare.
_SHORTEST_CACHE = 4


def to_litertlm(
    model: GPT | Run | str | Path,
    path: str | Path,
    sparse: bool = False,
    prompt_length: int = 0,
    cache_length: int = 0,
    overwrite: bool = False,
    quantize: str = "none",
    *,
    tokenizer: Tokenizer | None = None,
    separator: bool | None = None,
    sparsity: float | None = None,
) -> ExportCard:
    """Writes a bundle for LiteRT-LM, Google's runtime of language models on devices.

    It holds the model as a `.tflite` file with the signatures that the runtime asks
    for, the tokenizer, and where answers end, so `litert-lm run FILE --prompt TEXT`
    gives the model's own greedy text. The runtime cuts prompts into the pieces of its
    prefills: they may be as long as the cache.

    The signatures are `decode` and a `prefill_N` for N = 1, 8, 64, ... up to
    `prompt_length`, over `tokens` `(1, N)` int32, `input_pos` `(N,)` int32 and the
    caches `kv_cache_k_0, kv_cache_v_0, ...`, float32 `(1, num_heads, cache_length,
    head_dim)`. All return the caches, and `decode` also `logits` `(1, 1,
    vocabulary_size)`.

    Args:
        model: As in `to_tflite`.
        path: File to write; the runtime wants the ending `.litertlm`.
        sparse: As in `to_tflite`.
        prompt_length: Tokens of the longest prefill; 0 is 64, or the cache where that
            is shorter.
        cache_length: Most tokens of a conversation; 0 is the context.
        overwrite: Replace a file that is there.
        quantize: As in `to_tflite`.
        tokenizer: The model's tokenizer; that of the run if None.
        separator: Close each prompt as the fine-tuning tasks do, and stop at an empty
            line; False continues it as plain text. None is False for the run of a
            pre-training, and True otherwise.
        sparsity: For a preset, sparsity of its masks.

    Returns:
        The card. Its error is that of the signatures in LiteRT, on random prompts. With
        litert-lm-api installed, the bundle also ran in LiteRT-LM.

    Raises:
        InputError: If `model` is unknown, the tokenizer is missing or does not fit it,
            an argument is out of range, `path` exists or has another ending, or
            litert-lm-builder is not installed.
        ExportError: If the logits are not the model's, or LiteRT-LM does not run it.
    """
    check_quantization(quantize)
    check_path(path)
    require_builder()
    source = resolve_source(model, sparsity)
    tokenizer, separator = resolve_tokenizer(source, tokenizer, separator)
    gpt, notes = float32_model(load_source(source, sparsity))
    check_tokenizer(tokenizer, gpt.embedding.vocabulary_size)
    context = gpt.embedding.max_sequence_length
    prompt_length, cache_length = checked_lengths(context, prompt_length, cache_length)
    if cache_length < _SHORTEST_CACHE:
        raise InputError(
            f"`cache_length` must be at least {_SHORTEST_CACHE} in a bundle. Received: "
            f"cache_length={cache_length}."
        )
    lengths = prefill_lengths(prompt_length)
    with staged(path, overwrite, beside=card_path(path)) as stage:
        kernels = FoldedKernels(gpt)
        functions = trace_signatures(gpt, kernels, lengths, cache_length)
        flatbuffer = stage.with_name("model.tflite")
        encoding = write(
            convert(functions, quantize, stage), flatbuffer, sparse, quantize
        )
        error, scale = check_logits(flatbuffer, gpt, lengths, quantize)
        write_bundle(stage, flatbuffer, tokenizer, cache_length, separator)
        around = size_bytes(stage) - size_bytes(flatbuffer)
        texts = check_texts(stage, gpt, tokenizer, separator, cache_length)
        notes = (*notes, *encoding.notes, _runtime_note(texts, quantize))
        size = size_bytes(stage)
        with stage.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    dense_size_bytes = encoding.dense_size_bytes + around
    card = ExportCard(
        format=f"litertlm{suffix(sparse, quantize)}",
        path=str(path),
        size_bytes=size,
        dense_size_bytes=dense_size_bytes,
        bound_size_bytes=dense_size_bytes
        - kernels.redundant_bytes(VALUE_BYTES[quantize]),
        sparsity=kernels.sparsity,
        max_abs_error=error,
        max_abs_logit=scale,
        vocabulary_size=gpt.embedding.vocabulary_size,
        sha256=checksum,
        notes=notes,
        runtimes=LITERTLM_RUNTIMES,
    )
    card.save(card_path(path))
    return card


def _runtime_note(texts: tuple[int, int] | None, quantize: str) -> str:
    """Says what LiteRT-LM did.

    Raises:
        ExportError: If a text of a float32 bundle is not the model's.
    """
    if texts is None:
        return NOT_RUN_NOTE
    equal, count = texts
    if equal < count and quantize == "none":
        raise ExportError(
            f"LiteRT-LM gives {count - equal} of {count} texts that are not the Keras "
            "model's. Nothing was written."
        )
    return (
        f"LiteRT-LM ran the bundle: {equal} of {count} greedy texts are the Keras "
        "model's."
    )
