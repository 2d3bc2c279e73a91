"""Exports SavedModels that plain TensorFlow loads: no Keras, no custom code."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.errors import ExportError, InputError
from spdf_keras.export.card import ExportCard, Logits, card_path, logit_error
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.graphs import (
    FoldedKernels,
    exact_float32,
    float32_model,
    keras_logits,
    trace,
    write_signatures,
)
from spdf_keras.export.runtimes import SAVED_MODEL_RUNTIMES
from spdf_keras.model.decoding.generator import check_beams, token_id_list
from spdf_keras.model.decoding.passes import prefill, project
from spdf_keras.model.decoding.search import search
from spdf_keras.model.decoding.steps import Continuations, Prompts
from spdf_keras.model.gpt import GPT

SIGNATURES = ("serving_default", "generate", "generate_beam")

# The LoRA recipe's, which the paper's tables use.
BEAM_SEARCH = DecodeConfig(num_beams=10, length_penalty=0.8, no_repeat_ngram_size=4)

NEW_TOKENS = tf.TensorSpec((), tf.int32, name="max_new_tokens")
CHECKED_NEW_TOKENS = 8
_PADDING = -1
FOLDER_WITH = "saved_model.pb"


def to_saved_model(
    model: GPT,
    path: str | Path,
    overwrite: bool = False,
    signatures: Sequence[str] = SIGNATURES,
    end_token_ids: Any = None,
    beam_search: DecodeConfig = BEAM_SEARCH,
) -> ExportCard:
    """Writes a SavedModel of token ids; batch and length are free, up to the context.

    Masks are folded into the kernels. `tf.saved_model.load` is all that it takes:

        signatures = tf.saved_model.load(path).signatures
        signatures["serving_default"](token_ids=...)["logits"]

    - `serving_default`: `token_ids`, int32 `(batch, length)`, to `logits`, float32
      `(batch, length, vocabulary_size)`.
    - `generate`: `token_ids`, padded at the right, with their `lengths` `(batch,)` and
      `max_new_tokens`, a scalar, to the likeliest tokens one after the other, with a
      key-value cache: `token_ids` `(batch, steps)`, -1 behind the end, and `lengths`.
    - `generate_beam`: the same by beam search, and `scores` `(batch,)`.

    Args:
        model: The model, sparse or stripped.
        path: Folder to write; its parents are made.
        overwrite: Replace a SavedModel that is there.
        signatures: Which of these to write.
        end_token_ids: Tokens that end a continuation, and are not returned: one id,
            several, or None.
        beam_search: How `generate_beam` searches; its length comes with each call.

    Returns:
        Its size and error, measured on random prompts.

    Raises:
        InputError: If `model` is no GPT, a signature is unknown, or `path` exists.
        ExportError: If the file's logits or tokens are not the model's.
    """
    unknown = [name for name in signatures if name not in SIGNATURES]
    if unknown or not signatures:
        raise InputError(
            f"`signatures` must be of {', '.join(SIGNATURES)}. Received: "
            f"{', '.join(unknown) or 'none'}."
        )
    model, notes = float32_model(model)
    check_decoding(model, beam_search)
    kernels = FoldedKernels(model)
    ends = tuple(token_id_list(end_token_ids))

    def serve(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden, _ = prefill(model, token_ids, tf.shape(token_ids)[1], kernels.tensors())
        return {"logits": project(model, hidden)}

    def generate(settings: DecodeConfig) -> Any:
        def run(token_ids: Any, lengths: Any, max_new_tokens: Any) -> Any:
            found = continue_prompts(
                model, kernels, settings, (token_ids, lengths), max_new_tokens, ends
            )
            scores = {"scores": found.scores} if settings.num_beams > 1 else {}
            padded = {"token_ids": padded_tokens(found), "lengths": found.counts}
            return {**padded, **scores}

        vector = tf.TensorSpec((None,), tf.int32, name="lengths")
        return trace(run, tokens, vector, NEW_TOKENS)

    tokens = tf.TensorSpec((None, None), tf.int32, name="token_ids")
    makers: dict[str, Callable[[], Any]] = {
        "serving_default": lambda: trace(serve, tokens),
        "generate": lambda: generate(DecodeConfig()),
        "generate_beam": lambda: generate(beam_search),
    }
    with staged(path, overwrite, folder_with=FOLDER_WITH) as stage:
        write_signatures({name: makers[name]() for name in signatures}, stage)
        loaded = tf.saved_model.load(str(stage)).signatures
        error: tuple[float | None, float | None] = (None, None)
        if "serving_default" in signatures:
            error = logit_error(_run(loaded["serving_default"], model))
        for name, settings in (
            ("generate", DecodeConfig()),
            ("generate_beam", beam_search),
        ):
            if name in signatures:
                _check_tokens(loaded[name], model, settings, ends)
        card = saved_model_card(path, stage, model, kernels, error, notes)
        card.save(card_path(stage))
    return card


def check_decoding(model: GPT, settings: DecodeConfig) -> None:
    """Refuses a way of decoding that the graph cannot have."""
    if settings.sample:
        raise InputError("A SavedModel does not sample: `sample` must be false.")
    check_beams(settings, model.embedding.vocabulary_size)


def continue_prompts(
    model: GPT,
    kernels: FoldedKernels,
    settings: DecodeConfig,
    prompts: tuple[tf.Tensor, tf.Tensor],
    max_new_tokens: tf.Tensor,
    ends: Sequence[int],
) -> Continuations:
    """Continues prompts, `token_ids` and `lengths`, in the graph that is traced."""
    token_ids, lengths = prompts
    context = model.embedding.max_sequence_length
    must = f"`lengths` must be in [1, {context - 1}], and no more than the tokens."
    fits = (lengths >= 1) & (lengths < context) & (lengths <= tf.shape(token_ids)[1])
    check = tf.debugging.Assert(tf.reduce_all(fits), [must, lengths])
    few = tf.debugging.Assert(
        max_new_tokens > 0, ["`max_new_tokens` must be positive."]
    )
    with tf.control_dependencies([check, few]):
        limits = tf.minimum(max_new_tokens, context - lengths)
    # Padding may be anything; -1 would be no token.
    token_ids = tf.maximum(token_ids, 0)
    batch = Prompts(
        token_ids,
        lengths,
        limits,
        tf.constant(list(ends), tf.int32),
        tf.zeros((tf.shape(lengths)[0], 0)),
    )
    return search(model, settings, batch, kernels.tensors())


def padded_tokens(found: Continuations) -> tf.Tensor:
    """The new tokens, with nothing behind the end of each."""
    counted = tf.sequence_mask(found.counts, tf.shape(found.token_ids)[1])
    return tf.where(counted, found.token_ids, _PADDING)


def _run(serve: Any, model: GPT) -> Iterator[tuple[Logits, Logits]]:
    random, context = np.random.default_rng(0), model.embedding.max_sequence_length
    for batch, length in ((2, 16), (1, 33)):
        shape = batch, min(length, context)
        token_ids = random.integers(model.embedding.vocabulary_size, size=shape)
        with exact_float32():
            received = serve(token_ids=tf.constant(token_ids, tf.int32))["logits"]
        yield keras_logits(model, token_ids), received.numpy()


def _check_tokens(
    generate: Any, model: GPT, settings: DecodeConfig, ends: Sequence[int]
) -> None:
    """Two prompts of different lengths, against the model's own `generate`."""
    random, context = np.random.default_rng(1), model.embedding.max_sequence_length
    lengths = [min(11, context - 1), min(5, context - 1)]
    token_ids = random.integers(
        model.embedding.vocabulary_size, size=(2, lengths[0]), dtype=np.int32
    )
    prompts = [row[:n].tolist() for row, n in zip(token_ids, lengths, strict=True)]
    settings = dataclasses.replace(settings, max_new_tokens=CHECKED_NEW_TOKENS)
    with exact_float32():
        expected = model.generate(prompts, end_token_ids=ends, **vars(settings))
        found = generate(
            token_ids=tf.constant(token_ids),
            lengths=tf.constant(lengths),
            max_new_tokens=tf.constant(CHECKED_NEW_TOKENS),
        )
    rows = zip(found["token_ids"].numpy(), found["lengths"].numpy(), strict=True)
    received = [row[:count].tolist() for row, count in rows]
    if received != expected:
        raise ExportError(
            "The exported model's tokens differ from the Keras model's: "
            f"{received}, not {expected}. Nothing was written."
        )


def saved_model_card(
    path: str | Path,
    stage: Path,
    model: GPT,
    kernels: FoldedKernels,
    error: tuple[float | None, float | None],
    notes: tuple[str, ...],
) -> ExportCard:
    """The card of a folder at `stage` that will be at `path`."""
    size = size_bytes(stage)
    return ExportCard(
        format="saved_model",
        path=str(path),
        size_bytes=size,
        dense_size_bytes=size,
        bound_size_bytes=size - kernels.redundant_bytes(),
        sparsity=kernels.sparsity,
        max_abs_error=error[0],
        max_abs_logit=error[1],
        vocabulary_size=model.embedding.vocabulary_size,
        notes=notes,
        runtimes=SAVED_MODEL_RUNTIMES,
    )
