"""Runs a SavedModel that has just been written, and compares it with the model."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import ExportError
from spdf_keras.evaluation.texts import generate_texts
from spdf_keras.export.card import Logits, logit_error
from spdf_keras.export.graphs import exact_float32, keras_logits
from spdf_keras.model.gpt import GPT

_NEW_TOKENS = 8
_LOGIT_SHAPES = ((2, 16), (1, 33))
_TEXTS = ("name : Blue Spice | food : English", "a")


def check_logits(serve: Any, model: GPT) -> tuple[float, float]:
    """Compares the logits of `serving_default`; returns as `logit_error`.

    Raises:
        ExportError: If they are not the model's.
    """
    return logit_error(_logit_pairs(serve, model))


def _logit_pairs(serve: Any, model: GPT) -> Iterator[tuple[Logits, Logits]]:
    random, context = np.random.default_rng(0), model.embedding.max_sequence_length
    for batch, length in _LOGIT_SHAPES:
        shape = batch, min(length, context)
        token_ids = random.integers(model.embedding.vocabulary_size, size=shape)
        with exact_float32():
            received = serve(token_ids=tf.constant(token_ids, tf.int32))["logits"]
        yield keras_logits(model, token_ids), received.numpy()


def check_tokens(
    generate: Any, model: GPT, end_token_ids: Sequence[int], settings: DecodeConfig
) -> None:
    """Continues two prompts of different lengths as the model's own `generate` does.

    Raises:
        ExportError: If a token is not the model's.
    """
    random, context = np.random.default_rng(1), model.embedding.max_sequence_length
    lengths = [min(11, context - 1), min(5, context - 1)]
    token_ids = random.integers(
        model.embedding.vocabulary_size, size=(2, lengths[0]), dtype=np.int32
    )
    prompts = [row[:n].tolist() for row, n in zip(token_ids, lengths, strict=True)]
    settings = dataclasses.replace(settings, max_new_tokens=_NEW_TOKENS)
    with exact_float32():
        expected = model.generate(
            prompts, end_token_ids=end_token_ids, **vars(settings)
        )
        outputs = generate(
            token_ids=tf.constant(token_ids),
            lengths=tf.constant(lengths),
            max_new_tokens=tf.fill(len(prompts), _NEW_TOKENS),
        )
    rows = zip(outputs["token_ids"].numpy(), outputs["lengths"].numpy(), strict=True)
    received = [row[:count].tolist() for row, count in rows]
    if received != expected:
        raise ExportError(
            "The exported model's tokens differ from the Keras model's: "
            f"{received}, not {expected}. Nothing was written."
        )


def check_texts(
    serve: Any,
    model: GPT,
    tokenizer: Tokenizer,
    *,
    settings: DecodeConfig,
    separator: bool,
) -> None:
    """Continues two texts as `generate_texts` does.

    Raises:
        ExportError: If a text is not the model's.
    """
    count = min(_NEW_TOKENS, model.embedding.max_sequence_length // 2)
    room = model.embedding.max_sequence_length - count
    with exact_float32():
        expected = generate_texts(
            model,
            tokenizer,
            [tokenizer.decode(tokenizer.encode(t)[: room - separator]) for t in _TEXTS],
            dataclasses.replace(settings, max_new_tokens=count),
            separator=separator,
        )
        counts = tf.fill(len(_TEXTS), count)
        outputs = serve(text=tf.constant(_TEXTS), max_new_tokens=counts)
    received = [text.decode() for text in outputs["text"].numpy()]
    if received != expected:
        raise ExportError(
            f"The exported model's texts differ from the Keras model's: {received}, "
            f"not {expected}. Nothing was written."
        )
