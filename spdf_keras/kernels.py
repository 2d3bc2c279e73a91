"""The one door of a block's six linear products."""

from typing import TypeAlias

import tensorflow as tf

from spdf_keras.native.tensorflow.products import (
    PackedKernel,
    SparseKernel,
    packed_linear,
    sparse_linear,
)

Kernel: TypeAlias = tf.Tensor | SparseKernel | PackedKernel


def linear(inputs: tf.Tensor, kernel: Kernel, bias: tf.Tensor) -> tf.Tensor:
    """Computes `inputs @ kernel + bias` over the last axis.

    All masked products of the model pass here, so that a kernel that skips its
    zeros needs no change to the layers.

    Args:
        inputs: `(..., in_features)`.
        kernel: `(in_features, out_features)`: a tensor, whose zeros are multiplied, or
            one whose zeros are skipped.
        bias: `(out_features,)`.

    Returns:
        `(..., out_features)`.
    """
    shape = kernel.kernel.shape if isinstance(kernel, SparseKernel) else kernel.shape
    in_features, out_features = shape
    # One matrix product of all tokens: a product per batch row is slower, and
    # TFLite wants the rank-2 form for its fully connected kernel.
    flat = tf.reshape(inputs, (-1, in_features))
    if isinstance(kernel, PackedKernel):
        outputs = packed_linear(flat, kernel, bias)
    elif isinstance(kernel, SparseKernel):
        outputs = sparse_linear(flat, kernel.kernel, kernel.mask, bias)
    else:
        outputs = tf.nn.bias_add(tf.matmul(flat, kernel), bias)
    leading = inputs.shape[:-1]
    if leading.is_fully_defined():
        return tf.reshape(outputs, (*leading, out_features))
    whole = tf.concat([tf.shape(inputs)[:-1], [out_features]], 0)
    return tf.reshape(outputs, whole)
