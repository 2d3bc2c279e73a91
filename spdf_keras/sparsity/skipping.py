"""Decides which masked kernels skip their zeros, and times both ways for `auto`."""

import time
import warnings
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from spdf_keras.kernels import DenseKernel, SkippingKernel
from spdf_keras.native.build import NotBuiltError
from spdf_keras.native.tensorflow.operations import load_operations

# Number of tokens in a timed step: a training batch of GPT-2 Small.
_TOKENS = 1024
_ROUNDS = 3

Shapes = Mapping[str, tuple[int, ...]]


class StepTimes(NamedTuple):
    """The duration of a training step of one kernel.

    Attributes:
        skipping: Seconds, with its zeros skipped.
        dense: Seconds, with its zeros multiplied.
    """

    skipping: float
    dense: float

    @property
    def skipping_pays(self) -> bool:
        """Whether skipping takes less time."""
        return self.skipping < self.dense


def available() -> bool:
    """Whether this machine can skip zeros; a warning says why, once, if it cannot."""
    try:
        load_operations()
    except NotBuiltError as error:
        warnings.warn(f"{error} Products are dense.", stacklevel=3)
        return False
    return True


def skipping_kernels(shapes: Shapes, sparsity: float, compute: str) -> tuple[str, ...]:
    """Returns the names of the kernels whose zeros are skipped.

    Args:
        shapes: `(in_features, out_features)` of each kernel by its name.
        sparsity: Fraction of zeros in each kernel.
        compute: `sparse` skips the zeros of all kernels, `dense` of none, `auto` of
            those for which skipping was faster; see `TrainConfig.compute`. Without
            a C++ compiler it is none.
    """
    if compute == "dense" or not available():
        return ()
    if compute == "sparse":
        return tuple(shapes)
    times = step_times(shapes, sparsity, compute)
    return tuple(name for name, pair in times.items() if pair.skipping_pays)


def step_times(shapes: Shapes, sparsity: float, compute: str) -> dict[str, StepTimes]:
    """Returns the timings on which `auto` decides; empty for another `compute`.

    Args:
        shapes: As in `skipping_kernels`.
        sparsity: Fraction of zeros in each kernel.
        compute: As in `skipping_kernels`.
    """
    if compute != "auto" or not available():
        return {}
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return {
        name: time_step(rows, columns, sparsity, threads)
        for name, (rows, columns) in shapes.items()
    }


@cache
def time_step(
    in_features: int, out_features: int, sparsity: float, threads: int
) -> StepTimes:
    """Times a training step of one kernel both ways, once per process.

    The two ways take turns on 1024 tokens, with a random mask.

    Args:
        in_features: Rows of the kernel.
        out_features: Its columns.
        sparsity: Fraction of zeros.
        threads: Threads of TensorFlow; the timings hold for this number.
    """
    random = np.random.default_rng(0)
    shape = in_features, out_features
    mask = tf.constant(random.random(shape) >= sparsity)
    kernel = tf.constant(random.normal(size=shape).astype(np.float32))
    x = tf.constant(random.normal(size=(_TOKENS, in_features)).astype(np.float32))
    bias = tf.zeros(out_features)

    def seconds(skips: bool) -> float:
        start = time.perf_counter()
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            if skips:
                y = SkippingKernel.lay_out(kernel, mask).linear(x, bias)
            else:
                y = DenseKernel(kernel * tf.cast(mask, tf.float32)).linear(x, bias)
        for gradient in tape.gradient(y, (x, kernel)):
            gradient.numpy()
        return time.perf_counter() - start

    times = [(seconds(True), seconds(False)) for _ in range(_ROUNDS + 1)][1:]
    return StepTimes(*np.median(times, axis=0).tolist())
