"""Products that skip the zeros of fixed masks, as differentiable functions.

A masked kernel is computed in three steps, each as often as it has to be: `keep` takes
its kept values once per step, `lay_out` orders them for the processor once per step,
and `sparse_linear` multiplies them by each batch. All three run on CPUs.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from spdf_keras.native.tensorflow.operations import load_operations


class Kept(NamedTuple):
    """The kept values of a kernel.

    Attributes:
        values: `(kept,)`, float32, in the order of the rows of the kernel.
        index: Where they lie: a scalar variant tensor, for `lay_out`.
    """

    values: tf.Tensor
    index: tf.Tensor


def keep(kernel: tf.Tensor, mask: tf.Tensor) -> Kept:
    """Takes the kept values of a kernel.

    The index of a mask is built once and shared by all operations with the same mask.
    The gradient for the kernel is zero where the mask is 0.

    Args:
        kernel: `(in_features, out_features)`, float32.
        mask: The same shape, bool, 1 = kept. It has no gradient.

    Raises:
        NotBuiltError: If the library cannot be compiled.

    Example:
        >>> kernel = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> keep(kernel, tf.constant([[True, False], [True, True]])).values.numpy()
        array([1., 3., 4.], dtype=float32)
    """
    index = load_operations().spdf_index(mask)
    return Kept(load_operations().spdf_keep(kernel, index), index)


def spread(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns a kernel with zeros between its kept values, as the mask says.

    Args:
        values: `(kept,)`, float32, in the order of the rows of the kernel.
        mask: `(in_features, out_features)`, bool, 1 = kept.

    Raises:
        NotBuiltError: If the library cannot be compiled.

    Example:
        >>> mask = tf.constant([[True, False], [True, True]])
        >>> spread(tf.constant([1.0, 3.0, 4.0]), mask).numpy()
        array([[1., 0.],
               [3., 4.]], dtype=float32)
    """
    operations = load_operations()
    kernel = operations.spdf_spread(values, operations.spdf_index(mask))
    kernel.set_shape(mask.shape)
    return kernel


def lay_out(kept: Kept, dtype: Any = "float32", gradients: bool = True) -> tf.Tensor:
    """Orders kept values for products, on whose speed the order decides.

    Args:
        kept: From `keep`.
        dtype: Dtype of the products, float32 or bfloat16, to which values are rounded.
        gradients: Whether the products have gradients, which takes more memory.

    Returns:
        A scalar variant tensor, for `sparse_linear`. It has no gradient.
    """
    return load_operations().spdf_lay_out(*kept, dtype=dtype, gradients=gradients)


def sparse_linear(
    x: tf.Tensor, kept: tf.Tensor, layout: tf.Tensor, bias: tf.Tensor
) -> tf.Tensor:
    """Computes `x @ (kernel * mask) + bias` and its gradients, zeros skipped.

    Sums are in float32, and do not depend on the number of threads.

    Args:
        x: `(tokens, in_features)`, of the layout's dtype.
        kept: The `values` of `keep`, to which the kernel's gradient flows: float32, one
            for each kept value.
        layout: From `lay_out`.
        bias: `(out_features,)`, of the same dtype.

    Returns:
        `(tokens, out_features)`, of the same dtype.

    Example:
        >>> kernel = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> kept = keep(kernel, tf.constant([[True, False], [True, True]]))
        >>> x = tf.constant([[1.0, 10.0]])
        >>> sparse_linear(x, kept.values, lay_out(kept), tf.zeros(2)).numpy()
        array([[31., 40.]], dtype=float32)
    """
    return load_operations().spdf_sparse_linear(x, kept, layout, bias)


def tile(kernel: tf.Tensor, transposed: bool = False) -> tf.Tensor:
    """Copies a dense kernel into the order in which `tiled_linear` reads it.

    Args:
        kernel: `(in_features, out_features)`, or its transpose, float32.
        transposed: Whether it is the transpose.

    Returns:
        `(tiles, in_features, outputs of a tile)`.

    Raises:
        NotBuiltError: If the library cannot be compiled.
    """
    return load_operations().spdf_dense_tiles(kernel, transposed=transposed)


def tiled_linear(x: tf.Tensor, tiles: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Computes `x @ kernel + bias` for few tokens, without gradients.

    Args:
        x: `(tokens, in_features)`, float32.
        tiles: From `tile`.
        bias: `(out_features,)`, float32.

    Returns:
        `(tokens, out_features)`.

    Example:
        >>> kernel = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        >>> tiled_linear(tf.constant([[1.0, 10.0]]), tile(kernel), tf.zeros(2)).numpy()
        array([[31., 42.]], dtype=float32)
    """
    return load_operations().spdf_dense_linear(x, tiles, bias)


def best(x: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Computes `tf.math.top_k` and `tf.reduce_logsumexp` of each row in one pass.

    Args:
        x: `(rows, columns)`, float32; -inf is allowed.
        k: How many of the largest numbers of a row are returned, at most `columns`.

    Returns:
        Values and indices, each `(rows, k)`, and the logarithm of the sum of all
        exponentials, `(rows,)`.

    Example:
        >>> values, indices, norms = best(tf.math.log([[1.0, 4.0, 3.0]]), 2)
        >>> indices.numpy(), tf.exp(norms).numpy().round(3)
        (array([[1, 2]], dtype=int32), array([8.], dtype=float32))
    """
    result = load_operations().spdf_best(x, k=k)
    return result.values, result.indices, result.norms


@tf.RegisterGradient("SpdfKeep")
def _spread(operation: Any, gradient: tf.Tensor) -> tuple[tf.Tensor, None]:
    kernel, index = operation.inputs
    dense = load_operations().spdf_spread(gradient, index)
    dense.set_shape(kernel.shape)
    return dense, None


@tf.RegisterGradient("SpdfSparseLinear")
def _gradients(operation: Any, dy: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
    x, _, layout, _ = operation.inputs
    result = load_operations().spdf_sparse_linear_gradient(x, layout, dy)
    return result.dx, result.gradient, None, result.dbias


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Computes GELU in the form with tanh, and its gradient, in one pass each.

    TensorFlow computes it by some twenty operations, which take as long as a product
    whose zeros are skipped.

    Args:
        x: Float32 or bfloat16; it is computed in float32 and rounded once.

    Returns:
        The same shape and dtype.

    Example:
        >>> gelu(tf.constant([-1.0, 0.0, 1.0])).numpy().round(4)
        array([-0.1588,  0.    ,  0.8412], dtype=float32)
    """
    return load_operations().spdf_gelu(x)


@tf.RegisterGradient("SpdfGelu")
def _gelu_gradient(operation: Any, dy: tf.Tensor) -> tf.Tensor:
    return load_operations().spdf_gelu_gradient(operation.inputs[0], dy)
