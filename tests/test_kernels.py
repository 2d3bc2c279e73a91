"""Every kind of kernel computes the same product, and a new kind needs no layer."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras.kernels import DenseKernel, SkippingKernel, linear
from spdf_keras.model.block import GPTBlock
from spdf_keras.sparsity.skipping import available


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(2, 3, 8)).astype(np.float32),
        "values": rng.normal(size=(8, 12)).astype(np.float32),
        "mask": rng.random((8, 12)) >= 0.75,
        "bias": rng.normal(size=12).astype(np.float32),
    }


def product(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The reference, in float64."""
    x, values, bias = (arrays[n].astype(np.float64) for n in ("x", "values", "bias"))
    return np.asarray(x @ (values * arrays["mask"]) + bias)


@pytest.mark.parametrize("kind", ["tensor", "dense", "skipping", "inference"])
def test_each_kind_gives_the_masked_product(
    arrays: dict[str, np.ndarray], kind: str
) -> None:
    if kind in ("skipping", "inference") and not available():
        pytest.skip("needs a C++ compiler")
    values, mask = tf.constant(arrays["values"]), tf.constant(arrays["mask"])
    masked = values * tf.cast(mask, tf.float32)
    kernel: Any = {
        "tensor": lambda: masked,
        "dense": lambda: DenseKernel(masked),
        "skipping": lambda: SkippingKernel.lay_out(values, mask),
        "inference": lambda: SkippingKernel.lay_out(values, mask, gradients=False),
    }[kind]()
    assert tuple(kernel.shape) == (8, 12)
    outputs = linear(tf.constant(arrays["x"]), kernel, tf.constant(arrays["bias"]))
    np.testing.assert_allclose(outputs, product(arrays), rtol=1e-5, atol=1e-5)


class LowRank(NamedTuple):
    """A kind that the package does not know: a kernel and a product of two factors."""

    values: tf.Tensor
    left: tf.Tensor
    right: tf.Tensor

    @property
    def shape(self) -> tf.TensorShape:
        return self.values.shape

    def linear(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return DenseKernel(self.values).linear(x, bias) + x @ self.left @ self.right


def test_a_new_kind_of_kernel_needs_no_change_of_a_layer() -> None:
    block = GPTBlock(num_heads=2, name="block_0")
    x = tf.random.stateless_normal((1, 4, 8), seed=(0, 0))
    block(x)
    left = tf.random.stateless_normal((8, 2), seed=(1, 1))
    right = tf.random.stateless_normal((2, 8), seed=(2, 2))
    own = block.own_kernels()
    adapted = {**own, "value": LowRank(own["value"], left, right)}
    merged = {**own, "value": own["value"] + left @ right}
    np.testing.assert_allclose(
        block(x, kernels=adapted), block(x, kernels=merged), rtol=1e-4, atol=1e-5
    )
    assert np.abs(block(x, kernels=merged) - block(x)).max() > 1e-3
