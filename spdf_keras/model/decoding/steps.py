"""The part that all decoding loops share: prompts in, a step, continuations out."""

from typing import Any, NamedTuple

import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.kernels import Kernel
from spdf_keras.model.decoding.cache import Branches
from spdf_keras.model.decoding.constraints import (
    ban_repeated_ngrams,
    penalise_repetition,
)
from spdf_keras.model.decoding.passes import Kernels, project
from spdf_keras.native.tensorflow.products import best


class Prompts(NamedTuple):
    """A batch of prompts.

    Attributes:
        token_ids: `(batch, width)`, padded at the right, int32.
        lengths: Tokens of each prompt, `(batch,)`, int32.
        limits: Largest number of new tokens, at least 1, `(batch,)`, int32.
        ends: Tokens that end a continuation, `(number,)`, int32.
        uniform: Random numbers in `[0, 1)` that choose the tokens, `(batch,
            max_new_tokens)`; only read when sampling.
    """

    token_ids: tf.Tensor
    lengths: tf.Tensor
    limits: tf.Tensor
    ends: tf.Tensor
    uniform: tf.Tensor

    @property
    def steps(self) -> tf.Tensor:
        """Largest number of new tokens of all prompts; a batch without any has 1."""
        return tf.maximum(tf.reduce_max(self.limits), 1)

    @classmethod
    def signature(cls) -> "Prompts":
        """Specs with free sizes, since a trace costs more than a batch of decoding."""
        matrix, vector = (tf.TensorSpec([None] * rank, tf.int32) for rank in (2, 1))
        uniform = tf.TensorSpec([None, None], tf.float32)
        return cls(matrix, vector, vector, vector, uniform)


class Continuations(NamedTuple):
    """The result of a decoding loop for each prompt.

    Attributes:
        token_ids: `(batch, steps)`.
        counts: Number of tokens of the continuation without its end token,
            `(batch,)`; -1 if the model's logits are not finite.
        scores: `(batch,)`. For a beam search, the sum of log-probabilities over
            length ** length_penalty, both with the end token; else zeros.
    """

    token_ids: tf.Tensor
    counts: tf.Tensor
    scores: tf.Tensor


class Stepper(NamedTuple):
    """The part of a decoding step that both loops share."""

    model: Any
    kernels: Kernels
    output: Kernel | None
    prompts: Prompts

    def logits(
        self,
        token_ids: tf.Tensor,
        parents: tf.Tensor,
        count: tf.Tensor,
        branches: Branches,
    ) -> tuple[tf.Tensor, Branches]:
        """Returns the logits after `count` tokens, `(batch, beams, vocabulary)`."""
        context = self.model.embedding.max_sequence_length
        # A row that has reached its limit keeps decoding; its output is ignored.
        position = tf.minimum(self.prompts.lengths + count - 1, context - 1)
        hidden, branches = branches.step(
            self.model, self.kernels, token_ids, position, parents, count - 1
        )
        return project(self.model, hidden, self.output), branches

    def best(
        self, logits: tf.Tensor, number: int
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the `number` largest logits of each beam, their tokens, and the norm.

        Args:
            logits: `(batch, beams, vocabulary_size)`.
            number: How many are returned.

        Returns:
            Values and token ids, each `(batch, beams, number)`, and the logarithm of
            the sum of all exponentials, `(batch, beams, 1)`.
        """
        if self.output is None:
            norms = tf.reduce_logsumexp(logits, -1, keepdims=True)
            return *tf.math.top_k(logits, number), norms
        beams, vocabulary = logits.shape[1:]
        found = best(tf.reshape(logits, (-1, vocabulary)), number)
        return tuple(
            tf.reshape(part, (-1, beams, size))
            for part, size in zip(found, (number, number, 1), strict=True)
        )

    def is_end(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Whether each token ends a continuation."""
        return tf.reduce_any(token_ids[..., None] == self.prompts.ends, -1)


def constrain(
    logits: tf.Tensor, history: tf.Tensor, count: tf.Tensor, settings: DecodeConfig
) -> tf.Tensor:
    """Applies the constraints of `settings` to logits; see `constraints`."""
    if settings.repetition_penalty != 1:
        penalty = settings.repetition_penalty
        logits = penalise_repetition(logits, history, count, penalty)
    if settings.no_repeat_ngram_size:
        size = settings.no_repeat_ngram_size
        logits = ban_repeated_ngrams(logits, history, count, size)
    return logits


def is_stuck(logits: tf.Tensor) -> tf.Tensor:
    """Whether every token is banned; the continuation then ends without end token."""
    return tf.reduce_max(logits, -1) == -float("inf")


def write(history: tf.Tensor, count: tf.Tensor, token_ids: tf.Tensor) -> tf.Tensor:
    """Returns the history with `token_ids` at position `count` of each beam."""
    here = tf.range(tf.shape(history)[2]) == count
    return tf.where(here, token_ids[:, :, None], history)
