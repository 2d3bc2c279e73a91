"""Sparse products as differentiable TensorFlow functions, and when they pay."""

import time
import warnings
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from spdf_keras.native.tensorflow.build import NotBuiltError, load_operations

# Tokens that a choice is measured with: a training batch of GPT-2 Small.
_TOKENS = 1024
_ROUNDS = 3


class SparseKernel(NamedTuple):
    """A kernel whose zeros are skipped, in training.

    Attributes:
        kernel: `(in_features, out_features)`, float32; read where the mask is 1.
        mask: Its mask, bool, 1 = kept.
    """

    kernel: tf.Tensor
    mask: tf.Tensor


class PackedKernel(NamedTuple):
    """A kernel's kept values, packed once for many products.

    Attributes:
        packed: What `SpdfPackKernel` returns.
        shape: `(in_features, out_features)`.
    """

    packed: tf.Tensor
    shape: tf.TensorShape


def pack_kernel(kernel: tf.Tensor, mask: tf.Tensor) -> PackedKernel:
    """Packs a kernel for inference: `packed_linear` then reads its zeros no more.

    Args:
        kernel: `(in_features, out_features)`, float32.
        mask: The same shape, bool, 1 = kept.

    Raises:
        NotBuiltError: If the library cannot be compiled.
    """
    return PackedKernel(load_operations().spdf_pack_kernel(kernel, mask), kernel.shape)


def packed_linear(x: tf.Tensor, kernel: PackedKernel, bias: tf.Tensor) -> tf.Tensor:
    """Computes what `sparse_linear` does, without gradients, for any number of tokens.

    Args:
        x: `(tokens, in_features)`, float32.
        kernel: From `pack_kernel`.
        bias: `(out_features,)`, float32.

    Returns:
        `(tokens, out_features)`.

    Example:
        >>> kernel = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> packed = pack_kernel(kernel, tf.constant([[True, False], [True, True]]))
        >>> packed_linear(tf.constant([[1.0, 10.0]]), packed, tf.zeros(2)).numpy()
        array([[31., 40.]], dtype=float32)
    """
    return load_operations().spdf_packed_linear(x, kernel.packed, bias)


def sparse_linear(
    x: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, bias: tf.Tensor
) -> tf.Tensor:
    """Computes `x @ (kernel * mask) + bias` and its gradients on CPUs, zeros skipped.

    Structures of a mask are built once, and found again by its content. Sums do not
    depend on the number of threads.

    Args:
        x: `(tokens, in_features)`, float32.
        kernel: `(in_features, out_features)`, float32.
        mask: The same shape, bool. It has no gradient, and the kernel's is zero
            where it is 0.
        bias: `(out_features,)`, float32.

    Returns:
        `(tokens, out_features)`.

    Raises:
        NotBuiltError: If the library cannot be compiled.
    """
    return load_operations().spdf_sparse_linear(x, kernel, mask, bias)


@tf.RegisterGradient("SpdfSparseLinear")
def _gradient(operation: Any, dy: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
    x, kernel, mask, _ = operation.inputs
    found = load_operations().spdf_sparse_linear_gradient(x, kernel, mask, dy)
    return found.dx, found.gradient, None, tf.reduce_sum(dy, 0)


def available() -> bool:
    """Whether sparse products can be had; a line says why, once, where they cannot."""
    try:
        load_operations()
    except NotBuiltError as error:
        warnings.warn(f"{error} Products are dense.", stacklevel=3)
        return False
    return True


class Choice(NamedTuple):
    """What a training step of one kernel takes.

    Attributes:
        sparse: Seconds, with its zeros skipped.
        dense: Seconds, with its zeros multiplied.
    """

    sparse: float
    dense: float

    @property
    def pays(self) -> bool:
        """Whether skipping takes less time."""
        return self.sparse < self.dense


@cache
def measured(
    in_features: int, out_features: int, sparsity: float, threads: int
) -> Choice:
    """Times a training step of one kernel both ways.

    Measured here, in turns, with a random mask and 1024 tokens; once per process.

    Args:
        in_features: Rows of the kernel.
        out_features: Its columns.
        sparsity: Fraction of zeros.
        threads: Threads of TensorFlow; a choice holds for this number.
    """
    random = np.random.default_rng(0)
    shape = in_features, out_features
    mask = tf.constant(random.random(shape) >= sparsity)
    kernel = tf.constant(random.normal(size=shape).astype(np.float32))
    x = tf.constant(random.normal(size=(_TOKENS, in_features)).astype(np.float32))
    bias = tf.zeros(out_features)

    def step(is_sparse: bool) -> float:
        start = time.perf_counter()
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            if is_sparse:
                y = sparse_linear(x, kernel, mask, bias)
            else:
                masked = kernel * tf.cast(mask, tf.float32)
                y = tf.nn.bias_add(tf.matmul(x, masked), bias)
        for result in tape.gradient(y, (x, kernel)):
            result.numpy()
        return time.perf_counter() - start

    times = [(step(True), step(False)) for _ in range(_ROUNDS + 1)][1:]
    return Choice(*np.median(times, axis=0).tolist())
