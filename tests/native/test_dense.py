"""The products of few tokens with a dense kernel, and the best of many numbers."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras.kernels import TiledKernel, linear
from spdf_keras.native.tensorflow.products import best, tile, tiled_linear

pytestmark = pytest.mark.usefixtures("operations")


# Tiles of 12 outputs, vectors of 4, 8 or 16 tokens and blocks of 96, and their rests.
@given(st.integers(0, 210), st.integers(1, 70), st.integers(1, 70), st.booleans())
@settings(max_examples=60, deadline=None)
def test_tiles_give_the_product_in_float64(
    tokens: int, columns: int, rows: int, transposed: bool
) -> None:
    random = np.random.default_rng(tokens + columns)
    x = random.normal(size=(tokens, columns)).astype(np.float32)
    kernel = random.normal(size=(columns, rows)).astype(np.float32)
    bias = random.normal(size=rows).astype(np.float32)
    tiles = tile(kernel.T.copy() if transposed else kernel, transposed)
    expected = x.astype(np.float64) @ kernel + bias
    # Sums of at most 70 products of about 1, each rounded to 2 ** -24.
    np.testing.assert_allclose(tiled_linear(x, tiles, bias), expected, atol=2e-5)


@pytest.mark.parametrize("tokens", [1, 5, 33, 100])
def test_each_instruction_set_gives_the_product(
    instruction_set: str, tokens: int
) -> None:
    random = np.random.default_rng(tokens)
    x, kernel = random.normal(size=(tokens, 97)), random.normal(size=(97, 50))
    tiles = tile(tf.constant(kernel, tf.float32))
    y = tiled_linear(tf.constant(x, tf.float32), tiles, tf.zeros(50))
    np.testing.assert_allclose(y, x @ kernel, atol=4e-5)
    values, indices, norms = best(y, 3)
    expected = tf.math.top_k(y, 3)
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_array_equal(indices, expected.indices)
    np.testing.assert_allclose(norms, tf.reduce_logsumexp(y, -1), rtol=1e-6)


def test_a_tiled_kernel_is_a_kernel_of_a_layer() -> None:
    kernel = tf.constant(np.random.default_rng(0).normal(size=(5, 13)), tf.float32)
    x, bias = tf.ones((2, 3, 5)), tf.zeros(13)
    y = linear(x, TiledKernel.tile(kernel), bias)
    np.testing.assert_allclose(y, linear(x, kernel, bias), atol=1e-6)
    turned = TiledKernel.tile(tf.transpose(kernel), transposed=True)
    assert turned.shape == (5, 13)
    np.testing.assert_array_equal(linear(x, turned, bias), y)


def test_a_tiled_product_refuses_other_shapes() -> None:
    tiles = tile(tf.ones((4, 13)))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"tiles must be \[2,5,12\]"
    ):
        tiled_linear(tf.ones((1, 5)), tiles, tf.ones(13))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"tiles must be \[3,4,12\]"
    ):
        tiled_linear(tf.ones((1, 4)), tiles, tf.ones(25))


@given(st.integers(1, 700), st.integers(1, 12), st.booleans(), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_best_numbers_are_those_of_tensorflow(
    columns: int, k: int, ties: bool, banned: float
) -> None:
    random = np.random.default_rng(columns)
    x = (20 * random.normal(size=(3, columns))).astype(np.float32)
    x = np.round(x / 10) if ties else x
    x[random.random(x.shape) < banned] = -np.inf
    x[2] = -np.inf
    k = min(k, columns)
    values, indices, norms = best(x, k)
    expected = tf.math.top_k(x, k)
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_array_equal(indices, expected.indices)
    exact = tf.reduce_logsumexp(tf.cast(x, tf.float64), -1)
    # The exponentials are right to about 1e-7, and the result is a float32.
    np.testing.assert_allclose(norms, exact, rtol=3e-7, atol=5e-7)


def test_best_refuses_more_numbers_than_there_are() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least k"):
        best(tf.ones((2, 3)), 4)
