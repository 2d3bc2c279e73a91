"""How a block's linear products are computed: one door, and one class per kind.

A layer calls `linear` with a kernel of any kind. A new kind (such as one in another
number format) is one more class with `shape` and `linear`; no layer changes.
`sparsity/skipping.py` decides which masked kernels skip their zeros.
"""

from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from spdf_keras.native.tensorflow import products
from spdf_keras.native.tensorflow.calls import compiled_linear, is_compiled
from spdf_keras.native.tensorflow.products import (
    keep,
    lay_out,
    sparse_linear,
    tile,
    tiled_linear,
)


class Kernel(Protocol):
    """A kernel `(in_features, out_features)` that can be multiplied.

    Classes are named tuples of tensors, so that `tf.nest` and Keras look into them.
    """

    @property
    def shape(self) -> tf.TensorShape:
        """The static shape, `(in_features, out_features)`."""

    def linear(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """Computes `x @ kernel + bias`.

        Args:
            x: `(tokens, in_features)`.
            bias: `(out_features,)`.

        Returns:
            `(tokens, out_features)`.
        """


class DenseKernel(NamedTuple):
    """A kernel whose zeros are multiplied like any number.

    Attributes:
        values: `(in_features, out_features)`; a masked kernel is already masked.
    """

    values: tf.Tensor

    @property
    def shape(self) -> tf.TensorShape:
        """See `Kernel`."""
        return self.values.shape

    def linear(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """See `Kernel`."""
        return tf.nn.bias_add(tf.matmul(x, self.values), bias)


class SkippingKernel(NamedTuple):
    """A masked kernel whose zeros are skipped, on CPUs.

    Attributes:
        kept: Its kept values, `(kept,)`, float32, to which its gradient flows.
        layout: The same values, laid out for products of one dtype.
        shape: `(in_features, out_features)`.
    """

    kept: tf.Tensor
    layout: tf.Tensor
    shape: tf.TensorShape

    @classmethod
    def lay_out(
        cls,
        values: tf.Tensor,
        mask: tf.Tensor,
        dtype: Any = "float32",
        gradients: bool = True,
    ) -> "SkippingKernel":
        """Lays a kernel out, for any number of products.

        Args:
            values: `(in_features, out_features)`, float32; read where the mask is 1.
            mask: Its mask, bool, 1 = kept.
            dtype: Dtype of the products, float32 or bfloat16.
            gradients: Whether the products have gradients, which takes more memory.

        Raises:
            NotBuiltError: If the native library cannot be compiled.
        """
        kept = keep(values, mask)
        layout = lay_out(kept, dtype, gradients)
        # Only a gradient needs the kept values beside the layout.
        handle = kept.values if gradients else tf.zeros(0)
        return cls(handle, layout, values.shape)

    def linear(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """See `Kernel`; the gradient skips the zeros too."""
        return sparse_linear(x, self.kept, self.layout, bias)


class CompiledKernel(NamedTuple):
    """A masked kernel whose zeros are skipped in a function that XLA compiles, on CPUs.

    Attributes:
        values: `(in_features, out_features)`, float32; read where the mask is 1.
        mask: Its mask, bool, 1 = kept.
    """

    values: tf.Tensor
    mask: tf.Tensor

    @property
    def shape(self) -> tf.TensorShape:
        """See `Kernel`."""
        return self.values.shape

    def linear(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """See `Kernel`; the gradient skips the zeros too."""
        return compiled_linear(x, self.values, self.mask, bias)


def skipping_kernel(
    values: tf.Tensor, mask: tf.Tensor, dtype: Any = "float32"
) -> SkippingKernel | CompiledKernel:
    """Returns the kernel that skips zeros where it is used, as a graph or with XLA.

    Args:
        values: `(in_features, out_features)`, float32; read where the mask is 1.
        mask: Its mask, bool, 1 = kept.
        dtype: Dtype of the products, float32 or bfloat16.

    Raises:
        NotBuiltError: If the native library cannot be compiled.
    """
    if is_compiled():
        return CompiledKernel(values, mask)
    return SkippingKernel.lay_out(values, mask, dtype)


class TiledKernel(NamedTuple):
    """A dense float32 kernel for products of few tokens, without gradients, on CPUs.

    A general product copies a kernel into an order of its own in each call, which takes
    as long as the product if there are few tokens. Here that is done once.

    Attributes:
        tiles: From `tile`.
        shape: `(in_features, out_features)`.
    """

    tiles: tf.Tensor
    shape: tf.TensorShape

    @classmethod
    def tile(cls, values: tf.Tensor, transposed: bool = False) -> "TiledKernel":
        """Copies a kernel into tiles.

        Args:
            values: `(in_features, out_features)`, or its transpose, float32.
            transposed: Whether it is the transpose.

        Raises:
            NotBuiltError: If the native library cannot be compiled.
        """
        shape = values.shape[::-1] if transposed else values.shape
        return cls(tile(values, transposed), shape)

    def linear(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """See `Kernel`; needs the native library, and has no gradient."""
        return tiled_linear(x, self.tiles, bias)


class AdaptedKernel(NamedTuple):
    """A kernel with a low-rank adapter beside it.

    Attributes:
        base: The kernel, of any kind.
        down: `(in_features, rank)`.
        up: `(rank, out_features)`.
        scale: Factor of the adapter's product.
        dropout: A function of the adapter's inputs, which the kernel's inputs do not
            pass; None leaves nothing out.
    """

    base: Any
    down: tf.Tensor
    up: tf.Tensor
    scale: float
    dropout: Any = None

    @property
    def shape(self) -> tf.TensorShape:
        """See `Kernel`."""
        return self.base.shape

    def linear(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """Computes `x @ kernel + bias + scale * (dropout(x) @ down) @ up`."""
        base = self.base if hasattr(self.base, "linear") else DenseKernel(self.base)
        inner = tf.matmul(x if self.dropout is None else self.dropout(x), self.down)
        return base.linear(x, bias) + tf.matmul(self.scale * inner, self.up)


def as_kernel(kernel: Any, dtype: str | None = None) -> tf.Tensor | Kernel:
    """Reads values as a tensor, cast unless `dtype` is None; other kinds stay.

    Args:
        kernel: A tensor, variable or array, or a `Kernel`, which keeps its own dtype.
        dtype: Name of the dtype.
    """
    # NumPy's arrays and TensorFlow's tensors compute no product with a bias.
    if hasattr(kernel, "linear"):
        return kernel
    return tf.convert_to_tensor(kernel) if dtype is None else tf.cast(kernel, dtype)


def linear(inputs: tf.Tensor, kernel: tf.Tensor | Kernel, bias: tf.Tensor) -> tf.Tensor:
    """Computes `inputs @ kernel + bias` over the last axis.

    All six products of every block pass here.

    Args:
        inputs: `(..., in_features)`.
        kernel: `(in_features, out_features)`; a tensor stands for a `DenseKernel`.
        bias: `(out_features,)`.

    Returns:
        `(..., out_features)`.
    """
    if not hasattr(kernel, "linear"):
        kernel = DenseKernel(kernel)
    in_features, out_features = kernel.shape
    # One matrix product of all tokens: a product per batch row is slower, and
    # TFLite wants the rank-2 form for its fully connected kernel.
    outputs = kernel.linear(tf.reshape(inputs, (-1, in_features)), bias)
    leading = inputs.shape[:-1]
    if leading.is_fully_defined():
        return tf.reshape(outputs, (*leading, out_features))
    whole = tf.concat([tf.shape(inputs)[:-1], [out_features]], 0)
    return tf.reshape(outputs, whole)


def gelu(x: tf.Tensor, kernel: tf.Tensor | Kernel, exact: bool = False) -> tf.Tensor:
    """Computes GELU of what `linear` computed with a kernel.

    Where the product skips zeros, the form with tanh takes one pass of the same
    library: TensorFlow's operations would take as long as the product. The library has
    no pass for the exact form.

    Args:
        x: Any shape.
        kernel: The kernel of the product.
        exact: Whether to take the exact form, with erf, in place of the one with tanh.
    """
    if exact:
        return tf.nn.gelu(x)
    if isinstance(getattr(kernel, "base", kernel), SkippingKernel):
        return products.gelu(x)
    return tf.nn.gelu(x, approximate=True)
