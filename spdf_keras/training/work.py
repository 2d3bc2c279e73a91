"""What a training step computes, and what the machine could."""

import time
from dataclasses import dataclass
from functools import cache

import tensorflow as tf

from spdf_keras.config import Config
from spdf_keras.flops import training_flops


@dataclass(frozen=True)
class StepWork:
    """The work of one step.

    Attributes:
        tokens: Tokens of the batch.
        flops: Operations of forward and backward pass, zeros skipped.
        dense_flops: Those of the dense model.
        peak: Operations per second of the machine's matrix product, as measured.
    """

    tokens: int
    flops: float
    dense_flops: float
    peak: float

    @classmethod
    def of(cls, config: Config, length: int, devices: int = 1) -> "StepWork":
        """That of a pre-training.

        Args:
            config: `model`, `sparsity` and `train` are used.
            length: Tokens per sequence.
            devices: Devices that share a batch, each with a peak of its own.
        """
        batch = config.train.batch_size
        dense, sparse = (
            batch * training_flops(config.model, length, sparsity)
            for sparsity in (0.0, config.sparsity.sparsity)
        )
        dtype = config.train.precision.removeprefix("mixed_")
        return cls(batch * length, sparse, dense, devices * _peak(dtype))


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
