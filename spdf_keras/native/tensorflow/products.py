"""Products that skip the zeros of fixed masks, as differentiable functions."""

from typing import Any

import tensorflow as tf

from spdf_keras.native.tensorflow.operations import load_operations


def pack_kernel(kernel: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Packs a kernel's kept values once, for `packed_linear`.

    Args:
        kernel: `(in_features, out_features)`, float32.
        mask: The same shape, bool, 1 = kept.

    Returns:
        A scalar variant tensor.

    Raises:
        NotBuiltError: If the library cannot be compiled.
    """
    return load_operations().spdf_pack_kernel(kernel, mask)


def packed_linear(x: tf.Tensor, packed: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Computes the outputs of `sparse_linear` for any number of tokens.

    It has no gradient.

    Args:
        x: `(tokens, in_features)`, float32.
        packed: From `pack_kernel`.
        bias: `(out_features,)`, float32.

    Returns:
        `(tokens, out_features)`.

    Example:
        >>> kernel = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> packed = pack_kernel(kernel, tf.constant([[True, False], [True, True]]))
        >>> packed_linear(tf.constant([[1.0, 10.0]]), packed, tf.zeros(2)).numpy()
        array([[31., 40.]], dtype=float32)
    """
    return load_operations().spdf_packed_linear(x, packed, bias)


def sparse_linear(
    x: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, bias: tf.Tensor
) -> tf.Tensor:
    """Computes `x @ (kernel * mask) + bias` and its gradients on CPUs, zeros skipped.

    The index structures of a mask are built once and kept by the mask's content. Sums
    do not depend on the number of threads.

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
    result = load_operations().spdf_sparse_linear_gradient(x, kernel, mask, dy)
    return result.dx, result.gradient, None, tf.reduce_sum(dy, 0)
