"""Tokens and operations of training steps, and the machine's peak."""

import time
from collections.abc import Sequence
from functools import cache

import numpy as np
import tensorflow as tf

from spdf_keras.config import Config, LoRAConfig
from spdf_keras.flops import training_flops
from spdf_keras.model.sparsity_plan import SparsityPlan


class StepWork:
    """The work of each step of a training.

    Args:
        config: `model`, `sparsity` and `train.precision` are used.
        batch_size: Sequences per step.
        lengths: Tokens per sequence of each step, in order, padding included.
        devices: Number of devices that share a batch.
        lora: The settings of the adapter that is trained, if one is.

    Attributes:
        peak: Measured operations per second of a matrix product on all devices.
    """

    def __init__(
        self,
        config: Config,
        batch_size: int,
        lengths: Sequence[int],
        devices: int = 1,
        lora: LoRAConfig | None = None,
    ) -> None:
        self._tokens = batch_size * np.asarray(lengths, np.int64)
        plan = SparsityPlan(config.model, config.sparsity, len(lengths))
        sparsities = list(plan.steps(len(lengths)))

        @cache
        def flops(length: int, sparsity: float) -> float:
            return batch_size * training_flops(config.model, length, sparsity, lora)

        self._flops, self._dense_flops = (
            np.array([flops(int(n), s) for n, s in zip(lengths, of, strict=True)])
            for of in (sparsities, [0.0] * len(lengths))
        )
        self._total, self._dense_total = map(
            np.cumsum, (self._flops, self._dense_flops)
        )
        self.peak = devices * _peak(config.train.precision.removeprefix("mixed_"))

    def tokens(self, step: int) -> int:
        """Returns the tokens of a step; the first step has number 1."""
        return int(self._tokens[step - 1])

    def flops(self, step: int) -> float:
        """Returns the operations of a step, forward and backward, zeros skipped."""
        return float(self._flops[step - 1])

    def total_flops(self, step: int) -> tuple[float, float]:
        """Returns the operations up to `step`: with zeros skipped, and dense."""
        return float(self._total[step - 1]), float(self._dense_total[step - 1])


@cache
def _peak(dtype: str) -> float:
    return matrix_peak(dtype, 8192 if tf.config.list_physical_devices("GPU") else 1024)


def matrix_peak(dtype: str, size: int, repeats: int = 5) -> float:
    """Measures the operations per second of a square matrix product on one device.

    Args:
        dtype: Type of the factors.
        size: Their rows and columns.
        repeats: Products that are timed; the fastest counts.
    """
    factor = tf.cast(tf.random.normal((size, size)), dtype)
    product = tf.function(lambda x: tf.reduce_sum(tf.matmul(x, x)))
    product(factor).numpy()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(factor).numpy()
        seconds.append(time.perf_counter() - start)
    return float(2 * size**3 / min(seconds))
