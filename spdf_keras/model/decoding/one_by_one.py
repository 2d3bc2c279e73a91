"""Greedy decoding and sampling: each step chooses one token per row."""

from typing import Any

import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.model.decoding.cache import Branches
from spdf_keras.model.decoding.constraints import draw
from spdf_keras.model.decoding.steps import (
    Continuations,
    Stepper,
    constrain,
    is_stuck,
    write,
)


def choose_one_by_one(
    stepper: Stepper, settings: DecodeConfig, first: tf.Tensor, branches: Branches
) -> Continuations:
    """Continues prompts with the likeliest or a random token at each step.

    Args:
        stepper: Computes the logits.
        settings: How to choose; `sample` draws at random.
        first: Logits after the prompts, `(batch, vocabulary)`.
        branches: The cache of the prompts.
    """
    prompts = stepper.prompts
    batch, steps = tf.shape(first)[0], prompts.steps
    parents = tf.zeros((batch, 1), tf.int32)

    def choose(logits: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        if not settings.sample:
            return tf.argmax(logits, -1, output_type=tf.int32)
        uniform = prompts.uniform[:, count]
        return draw(
            logits, uniform, settings.temperature, settings.top_k, settings.top_p
        )

    def take(
        logits: tf.Tensor, count: tf.Tensor, history: tf.Tensor, counts: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Takes one more token; `counts` is -1 for rows that go on."""
        tokens = choose(logits, count)[:, None]
        history = write(history, count, tokens)
        ends, full = stepper.is_end(tokens)[:, 0], count + 1 >= prompts.limits
        if settings.no_repeat_ngram_size:
            ends |= is_stuck(logits)
        ended = tf.where(ends, count, tf.where(full, count + 1, -1))
        return count + 1, history, tf.where(counts < 0, ended, counts), tokens

    def advance(
        count: tf.Tensor,
        history: tf.Tensor,
        counts: tf.Tensor,
        tokens: tf.Tensor,
        branches: Branches,
    ) -> Any:
        logits, branches = stepper.logits(tokens, parents, count, branches)
        logits = constrain(logits, history, count, settings)[:, 0]
        return *take(logits, count, history, counts), branches

    history = tf.fill((batch, 1, steps), -1)
    start = take(first, tf.constant(0), history, tf.fill((batch,), -1))
    _, history, counts, *_ = tf.while_loop(
        lambda count, history, counts, *_: tf.reduce_any(counts < 0),
        advance,
        (*start, branches),
        (*(x.shape for x in start), branches.shapes()),
    )
    return Continuations(history[:, 0], counts, tf.zeros((batch,)))
