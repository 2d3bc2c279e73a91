"""Decoding with a key-value cache: prefill the prompts, then a token at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.model.block import Cache
from spdf_keras.sparsity.wrapper import PruneFixedRandom

Kernels = list[dict[str, tf.Tensor]]

# Prompts are padded to a multiple of this, so that few shapes are traced.
_PROMPT_BUCKET = 32


def effective_kernels(model: Any) -> Kernels:
    """Each block's kernels by name, masked where the model is sparse.

    Computed once before a loop, they spare every decoding step the masking. They
    have the dtype that the blocks compute in.
    """
    blocks = []
    for layer in model.blocks:
        is_masked = isinstance(layer, PruneFixedRandom)
        kernels = layer.masked_kernels() if is_masked else layer.own_kernels()
        blocks.append(
            {name: tf.cast(k, layer.compute_dtype) for name, k in kernels.items()}
        )
    return blocks


def prefill(
    model: Any, token_ids: tf.Tensor, cache_length: int | tf.Tensor, kernels: Kernels
) -> tuple[tf.Tensor, list[Cache]]:
    """Runs whole prompts at once.

    Rows may be padded at the right: what the padding leaves in the cache lies
    behind the row's position, where `decode` does not look before it overwrites.

    Args:
        model: The GPT.
        token_ids: `(batch, length)`.
        cache_length: Slots of the caches, at least `length`.
        kernels: From `effective_kernels`.

    Returns:
        Hidden states `(batch, length, hidden_dim)` after the final norm, and per
        block keys and values `(batch, num_heads, cache_length, head_dim)`.
    """
    length = token_ids.shape[1]
    extra = cache_length - (tf.shape(token_ids)[1] if length is None else length)
    x, caches = model.embedding(token_ids), []
    for layer, own in zip(model.blocks, kernels, strict=True):
        x, cache = layer(x, kernels=own, return_cache=True)
        caches.append(
            tuple(tf.pad(part, [[0, 0], [0, 0], [0, extra], [0, 0]]) for part in cache)
        )
    return model.final_norm(x), caches


def decode(
    model: Any,
    token_ids: tf.Tensor,
    position: tf.Tensor,
    caches: list[Cache],
    kernels: Kernels,
) -> tuple[tf.Tensor, list[Cache]]:
    """Runs one more token of each row.

    Args:
        model: The GPT.
        token_ids: `(batch, 1)`.
        position: Position of the token in its row, `(batch,)`.
        caches: Per block, from `prefill` or the last `decode`.
        kernels: From `effective_kernels`.

    Returns:
        Hidden states `(batch, 1, hidden_dim)` after the final norm, and the
        caches with the token's keys and values.
    """
    x, after = model.embedding(token_ids, position=position[:, None]), []
    for layer, own, cache in zip(model.blocks, kernels, caches, strict=True):
        x, cache = layer(
            x, kernels=own, cache=cache, position=position, return_cache=True
        )
        after.append(cache)
    return model.final_norm(x), after


def project(model: Any, hidden: tf.Tensor) -> tf.Tensor:
    """Logits, float32, of hidden states that `prefill` or `decode` returned."""
    return tf.cast(model.embedding(hidden, reverse=True), tf.float32)


class GreedyDecoder:
    """Continues prompts with the likeliest token, batch by batch.

    The whole loop is one graph; it stops when every row has ended.

    Args:
        model: The GPT whose weights it reads at each call.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        ids, vector = (tf.TensorSpec(shape, tf.int32) for shape in ([None] * 2, [None]))
        # One trace for all shapes: a trace costs more than a batch of decoding.
        signature = [ids, vector, vector, tf.TensorSpec([], tf.int32)]
        self._loop = tf.function(self._greedy, input_signature=signature)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        end_token_ids: Sequence[int],
        batch_size: int,
    ) -> list[list[int]]:
        context = self._model.embedding.max_sequence_length
        vocabulary = self._model.embedding.vocabulary_size
        for number, prompt in enumerate(prompts):
            if not 0 < len(prompt) < context:
                raise InputError(
                    f"A prompt must have 1 to {context - 1} tokens (the context is "
                    f"{context}). Received: {len(prompt)} tokens in prompt {number}."
                )
            if not 0 <= min(prompt) <= max(prompt) < vocabulary:
                raise InputError(
                    f"Token ids must be in [0, {vocabulary}). Received: "
                    f"{min(prompt)} to {max(prompt)} in prompt {number}."
                )
        # Equal lengths together: less padding. The order is restored below.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        results: dict[int, list[int]] = {}
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            tokens = self._run(
                [prompts[i] for i in rows], max_new_tokens, end_token_ids
            )
            results.update(zip(rows, tokens, strict=True))
        return [results[i] for i in range(len(prompts))]

    def _run(
        self,
        prompts: list[Sequence[int]],
        max_new_tokens: int,
        end_token_ids: Sequence[int],
    ) -> list[list[int]]:
        context = self._model.embedding.max_sequence_length
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        width = min(-(-lengths.max() // _PROMPT_BUCKET) * _PROMPT_BUCKET, context)
        token_ids = np.zeros((len(prompts), width), np.int32)
        for row, prompt in enumerate(prompts):
            token_ids[row, : len(prompt)] = prompt
        ends = np.array(end_token_ids, np.int32)
        tokens = self._loop(
            tf.constant(token_ids),
            tf.constant(lengths),
            tf.constant(ends),
            tf.constant(max_new_tokens),
        ).numpy()
        results = []
        for row, length in zip(tokens, lengths, strict=True):
            row = row[: context - length]
            stops = np.flatnonzero(np.isin(row, ends))
            results.append(row[: stops[0]].tolist() if len(stops) else row.tolist())
        return results

    def _greedy(
        self,
        token_ids: tf.Tensor,
        lengths: tf.Tensor,
        ends: tf.Tensor,
        max_new_tokens: tf.Tensor,
    ) -> tf.Tensor:
        """New tokens, `(batch, steps)`; a row is meaningless after its end."""
        model = self._model
        context = model.embedding.max_sequence_length
        kernels = effective_kernels(model)
        cache_length = tf.minimum(tf.shape(token_ids)[1] + max_new_tokens, context)
        hidden, caches = prefill(model, token_ids, cache_length, kernels)
        last = tf.gather(hidden, lengths - 1, batch_dims=1)[:, None]

        def choose(hidden: tf.Tensor, done: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = project(model, hidden)[:, 0]
            token = tf.argmax(logits, -1, output_type=tf.int32)
            return token, done | tf.reduce_any(token[:, None] == ends[None], -1)

        def more(step: tf.Tensor, token: Any, done: tf.Tensor, *_: Any) -> tf.Tensor:
            return (step < max_new_tokens) & ~tf.reduce_all(done)

        def advance(
            step: tf.Tensor, token: tf.Tensor, done: tf.Tensor, tokens: Any, caches: Any
        ) -> Any:
            # A row at the end of the context runs on in place, unread.
            position = tf.minimum(lengths + step - 1, context - 1)
            hidden, caches = decode(model, token[:, None], position, caches, kernels)
            token, done = choose(hidden, done | (lengths + step >= context))
            return step + 1, token, done, tokens.write(step, token), caches

        token, done = choose(last, tf.zeros_like(lengths, tf.bool))
        array = tf.TensorArray(tf.int32, 1, dynamic_size=True, element_shape=[None])
        tokens = tf.while_loop(
            more,
            advance,
            (tf.constant(1), token, done, array.write(0, token), caches),
        )[3]
        return tf.transpose(tokens.stack())
