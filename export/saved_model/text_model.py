"""Exports a SavedModel from text to text, with the tokenizer inside."""

import dataclasses
from pathlib import Path
from typing import Any

import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.data.tokenizers.in_graph import GraphTokenizer
from spdf_keras.errors import ExportError, InputError
from spdf_keras.evaluation.texts import end_token_ids, generate_texts
from spdf_keras.export.card import ExportCard, card_path
from spdf_keras.export.files import staged
from spdf_keras.export.graphs import (
    FoldedKernels,
    exact_float32,
    float32_model,
    trace,
    write_signatures,
)
from spdf_keras.export.saved_model.exporter import (
    CHECKED_NEW_TOKENS,
    FOLDER_WITH,
    NEW_TOKENS,
    check_decoding,
    continue_prompts,
    padded_tokens,
    saved_model_card,
)
from spdf_keras.model.gpt import GPT


def to_text_model(
    model: GPT,
    tokenizer: Tokenizer,
    path: str | Path,
    overwrite: bool = False,
    separator: bool = True,
    settings: DecodeConfig | None = None,
) -> ExportCard:
    """Writes a SavedModel from text to text, with the tokenizer inside.

    Its `serving_default` takes `text`, strings `(batch,)`, and `max_new_tokens`, a
    scalar, to `text` `(batch,)`: what `generate_texts` returns. The tokenizer is made
    of core TensorFlow operations, so plain TensorFlow loads it, without TensorFlow
    Text. A text that leaves no room for the new tokens loses its end.

    Args:
        model: The model, sparse or stripped.
        tokenizer: Its tokenizer.
        path: Folder to write; its parents are made.
        overwrite: Replace a SavedModel that is there.
        separator: Close each text as the fine-tuning tasks do, and stop at an empty
            line; False continues it as plain text.
        settings: How to decode; greedily if None.

    Returns:
        Its size. There is no error: texts are equal to the model's, or it fails.

    Raises:
        InputError: If `model` is no GPT, the tokenizer does not fit it, or `path`
            exists.
        ExportError: If a text is not the model's.
    """
    model, notes = float32_model(model)
    if tokenizer.vocabulary_size > model.embedding.vocabulary_size:
        raise InputError(
            f"`tokenizer` must fit the model's {model.embedding.vocabulary_size} "
            f"tokens. Received: a tokenizer of {tokenizer.vocabulary_size}."
        )
    settings = settings or DecodeConfig()
    check_decoding(model, settings)
    kernels, in_graph = FoldedKernels(model), GraphTokenizer(tokenizer)
    context = model.embedding.max_sequence_length
    ends = end_token_ids(tokenizer) if separator else [tokenizer.end_token_id]

    def run(text: tf.Tensor, max_new_tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        max_new_tokens = tf.clip_by_value(max_new_tokens, 1, context - 2)
        rows = in_graph.encode_batch(text)[:, : context - max_new_tokens - separator]
        if separator:
            close = tf.fill((tf.shape(text)[0], 1), tokenizer.end_token_id)
            rows = tf.concat([rows, close], 1)
        prompts = rows.to_tensor(), tf.cast(rows.row_lengths(), tf.int32)
        found = continue_prompts(
            model, kernels, settings, prompts, max_new_tokens, ends
        )
        tokens = tf.RaggedTensor.from_tensor(padded_tokens(found), found.counts)
        output = in_graph.decode_batch(tokens)
        if separator:
            output = tf.strings.regex_replace(output, r"(?s)\n\n.*", "")
        return {"text": tf.strings.strip(output)}

    with staged(path, overwrite, folder_with=FOLDER_WITH) as stage:
        texts = tf.TensorSpec((None,), tf.string, name="text")
        function = trace(run, texts, NEW_TOKENS)
        write_signatures({"serving_default": function}, stage, in_graph)
        serve = tf.saved_model.load(str(stage)).signatures["serving_default"]
        _check_texts(serve, model, tokenizer, settings, separator)
        card = saved_model_card(path, stage, model, kernels, (0.0, 0.0), notes)
        card = dataclasses.replace(card, format="saved_model_text")
        card.save(card_path(stage))
    return card


def _check_texts(
    serve: Any,
    model: GPT,
    tokenizer: Tokenizer,
    settings: DecodeConfig,
    separator: bool,
) -> None:
    texts = ["name : Blue Spice | food : English", "a"]
    count = min(CHECKED_NEW_TOKENS, model.embedding.max_sequence_length // 2)
    settings = dataclasses.replace(settings, max_new_tokens=count)
    room = model.embedding.max_sequence_length - count
    with exact_float32():
        expected = generate_texts(
            model,
            tokenizer,
            [tokenizer.decode(tokenizer.encode(t)[: room - 1]) for t in texts],
            settings,
            separator=separator,
        )
        found = serve(text=tf.constant(texts), max_new_tokens=tf.constant(count))
    received = [text.decode() for text in found["text"].numpy()]
    if received != expected:
        raise ExportError(
            f"The exported model's texts differ from the Keras model's: {received}, "
            f"not {expected}. Nothing was written."
        )
