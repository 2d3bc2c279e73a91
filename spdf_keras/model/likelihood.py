"""Log-probabilities of given tokens under a model."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras.errors import InputError
from spdf_keras.model.decoding.passes import project

# Widths of batches are multiples of this, so the allocator sees fewer sizes.
_WIDTH_BUCKET = 16
# Tokens whose logits over the whole vocabulary are in memory at once.
_CHUNK = 256


class Likelihoods(NamedTuple):
    """The scored tokens of one sequence, in order.

    Attributes:
        logprobs: Natural logarithm of the probability of each token, `(scored,)`.
        is_best: Whether each is the likeliest token at its place, `(scored,)`.
        top_logprobs: Of the likeliest tokens at each place, best first, `(scored,
            top)`.
        top_token_ids: These tokens, `(scored, top)`.
    """

    logprobs: NDArray[np.float32]
    is_best: NDArray[np.bool_]
    top_logprobs: NDArray[np.float32]
    top_token_ids: NDArray[np.int32]


class Likelihood:
    """Scores sequences of any lengths: those of similar length share a batch.

    The graph has free sizes, so it is traced once. Only the tokens that are scored are
    projected to the vocabulary.

    Args:
        model: The GPT.
        top: How many of the likeliest tokens are returned for each place.
        batch_tokens: Tokens of a batch with its padding; a longer sequence is a batch
            of its own.

    Example:
        >>> from spdf_keras import GPTConfig, build_gpt
        >>> sizes = dict(vocabulary_size=64, max_sequence_length=16)
        >>> likelihood = Likelihood(build_gpt(GPTConfig(1, 2, 16, **sizes)))
        >>> [scores] = likelihood([([1, 2, 3, 4], 2)])  # of 3 and 4, given 1 and 2
        >>> scores.logprobs.shape
        (2,)
    """

    def __init__(self, model: Any, top: int = 0, batch_tokens: int = 4096) -> None:
        self._model, self._batch_tokens = model, batch_tokens
        self._context = model.embedding.max_sequence_length
        self._top = min(top, model.embedding.vocabulary_size)
        matrix = tf.TensorSpec((None, None), tf.int32)
        self._score = tf.function(
            self._run, input_signature=[matrix] * 3, autograph=False
        )

    def __call__(
        self,
        sequences: Sequence[tuple[Sequence[int], int]],
        report: Callable[[int], None] | None = None,
    ) -> list[Likelihoods]:
        """Scores the last tokens of each sequence, given all before them.

        Args:
            sequences: Token ids, at most one more than the context, and the index of
                the first one that is scored, at least 1.
            report: Gets the number of sequences done, after each batch.

        Raises:
            InputError: If a sequence is too long, or nothing of it can be scored.
        """
        for token_ids, start in sequences:
            if not 0 < start < len(token_ids) <= self._context + 1:
                raise InputError(
                    f"A sequence must have 2 to {self._context + 1} tokens (the "
                    f"context is {self._context}), of which the first is not "
                    f"scored. Received: {len(token_ids)} tokens, scored from {start} "
                    "on."
                )
        results: dict[int, Likelihoods] = {}
        for rows in self._batches([len(ids) - 1 for ids, _ in sequences]):
            scores = self._score_batch([sequences[row] for row in rows])
            results.update(zip(rows, scores, strict=True))
            if report:
                report(len(results))
        return [results[row] for row in range(len(sequences))]

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Groups rows, the longest first, so that the largest batch comes first."""
        batches: list[list[int]] = []
        width = 0
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            if not batches or (len(batches[-1]) + 1) * width > self._batch_tokens:
                batches.append([])
                width = self._width(lengths[row])
            batches[-1].append(row)
        return batches

    def _width(self, length: int) -> int:
        width = -(-length // _WIDTH_BUCKET) * _WIDTH_BUCKET
        return min(width, self._context)

    def _score_batch(
        self, sequences: Sequence[tuple[Sequence[int], int]]
    ) -> list[Likelihoods]:
        width = self._width(max(len(ids) - 1 for ids, _ in sequences))
        inputs = np.zeros((len(sequences), width), np.int32)
        places, targets = [], []
        for row, (token_ids, start) in enumerate(sequences):
            inputs[row, : len(token_ids) - 1] = token_ids[:-1]
            first = row * width
            places.append(np.arange(first + start - 1, first + len(token_ids) - 1))
            targets.append(np.array(token_ids[start:]))
        counts = [len(part) for part in places]
        total = sum(counts)
        chunk = min(total, _CHUNK)
        shape = (-(-total // chunk), chunk)
        size = shape[0] * chunk
        # The padding of the last chunk scores the first token again.
        padded = [
            np.pad(np.concatenate(parts), (0, size - total))
            for parts in (places, targets)
        ]
        found = self._score(
            inputs, *(x.reshape(shape).astype(np.int32) for x in padded)
        )
        flat = [x.numpy().reshape(size, *x.shape[2:])[:total] for x in found]
        ends = np.cumsum(counts)[:-1]
        return [
            Likelihoods(*parts)
            for parts in zip(*(np.split(x, ends) for x in flat), strict=True)
        ]

    def _run(self, token_ids: tf.Tensor, places: tf.Tensor, targets: tf.Tensor) -> Any:
        model = self._model
        x = model.embedding(token_ids)
        for block in model.blocks:
            x = block(x)
        hidden = tf.reshape(model.final_norm(x), (-1, x.shape[-1]))

        def score(part: tuple[tf.Tensor, tf.Tensor]) -> Any:
            logits = project(model, tf.gather(hidden, part[0])[None])[0]
            norms = tf.reduce_logsumexp(logits, -1)
            own = tf.gather(logits, part[1], batch_dims=1)
            is_best = tf.argmax(logits, -1, output_type=tf.int32) == part[1]
            values, top = tf.math.top_k(logits, self._top)
            return own - norms, is_best, values - norms[:, None], top

        kinds = (tf.float32, tf.bool, tf.float32, tf.int32)
        return tf.map_fn(
            score, (places, targets), fn_output_signature=kinds, parallel_iterations=1
        )
