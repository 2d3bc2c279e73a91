"""The one door of a block's six linear products."""

import tensorflow as tf


def linear(inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Computes `inputs @ kernel + bias` over the last axis.

    All masked products of the model pass here, so that a kernel that skips its
    zeros needs no change to the layers. Today the zeros are multiplied.

    Args:
        inputs: `(..., in_features)`.
        kernel: `(in_features, out_features)`, masked where it is sparse.
        bias: `(out_features,)`.

    Returns:
        `(..., out_features)`.
    """
    in_features, out_features = kernel.shape
    # One matrix product of all tokens: a product per batch row is slower, and
    # TFLite wants the rank-2 form for its fully connected kernel.
    flat = tf.reshape(inputs, (-1, in_features))
    outputs = tf.nn.bias_add(tf.matmul(flat, kernel), bias)
    leading = inputs.shape[:-1]
    if leading.is_fully_defined():
        shape = (*leading, out_features)
    else:
        shape = tf.concat([tf.shape(inputs)[:-1], [out_features]], 0)
    return tf.reshape(outputs, shape)
