"""Dropout whose draws depend on seed, step and row alone.

A training that was killed thus goes on to the same bytes, and a batch has the same
draws whether it is computed in one piece, in micro-batches or on several replicas.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

# TensorFlow's number of the counter-based generator Philox.
_PHILOX = 1
# Numbers that one value of the generator's counter gives.
_GROUP = 4


class _Place(threading.local):
    """The step that this thread computes or traces, and the first row of its part."""

    step: Any = None
    first_row: Callable[[], Any] | None = None


_PLACE = _Place()


@contextlib.contextmanager
def step_draws(step: Any, first_row: Callable[[], Any] | None = None) -> Iterator[None]:
    """Gives dropout in the block the draws of a training step.

    Args:
        step: Number of completed steps, an integer variable.
        first_row: Returns the number of the first row, in the batch of the step, of
            what the block computes; None is 0.
    """
    before = _PLACE.step, _PLACE.first_row
    _PLACE.step, _PLACE.first_row = step, first_row
    try:
        yield
    finally:
        _PLACE.step, _PLACE.first_row = before


def replica_row(batch: Any) -> Any:
    """Returns the number of the first row of this replica.

    Args:
        batch: Rows of each replica.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return 0
    context = tf.distribute.get_replica_context()
    return context.replica_id_in_sync_group * batch


class Dropout(NamedTuple):
    """Sets a fraction of numbers to zero, and scales the others up.

    Attributes:
        rate: Fraction of zeros.
        seed: Seed of the draws, another one in each place of the model.
        step: Number of the step, an integer scalar.
        first_token: Number of the first token of the inputs in the batch of the step,
            an integer scalar.
    """

    rate: float
    seed: int
    step: tf.Tensor
    first_token: tf.Tensor

    @classmethod
    def here(cls, rate: float, seed: int, inputs: tf.Tensor) -> "Dropout":
        """Makes the dropout of the step that is computed; see `step_draws`.

        Args:
            rate: Fraction of zeros.
            seed: Seed of this place in the model.
            inputs: `(batch, length, ...)`.
        """
        step, row = _PLACE.step, 0 if _PLACE.first_row is None else _PLACE.first_row()
        if step is None:  # in a loop of the user's own, which tells no step
            step = tf.random.uniform((), maxval=tf.int64.max, dtype=tf.int64)
        length = tf.shape(inputs, tf.int64)[1]
        return cls(rate, seed, tf.cast(step, tf.int64), tf.cast(row, tf.int64) * length)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Applies the dropout.

        Args:
            x: `(tokens, features)`.
        """
        tokens, features = tf.shape(x)[0], x.shape[1]
        groups = -(-features // _GROUP)
        # The counter has 128 bits: the lower half tells groups apart, the upper steps.
        place = self.first_token * groups
        counter = tf.cast(tf.stack([place, self.step]), tf.uint64)
        uniform = tf.raw_ops.StatelessRandomUniformV2(
            shape=[tokens, groups * _GROUP],
            key=tf.constant([self.seed], tf.uint64),
            counter=counter,
            alg=_PHILOX,
        )[:, :features]
        scaled = x * tf.cast(1.0 / (1.0 - self.rate), x.dtype)
        return tf.where(uniform < self.rate, tf.zeros((), x.dtype), scaled)
