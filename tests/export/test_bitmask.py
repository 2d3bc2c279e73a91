import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras.errors import InputError
from spdf_keras.export.bitmask import Bitmask, information_bound
from spdf_keras.export.xla.programs import unpack

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.int8)


def random_array(shape: tuple[int, ...], sparsity: float, dtype: Any, seed: int) -> Any:
    random = np.random.default_rng(seed)
    array = random.integers(1, 100, shape).astype(dtype)
    array[random.random(shape) < sparsity] = 0
    return array


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    sparsity=st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.97, 1.0]),
    dtype=st.sampled_from(DTYPES),
    empty_and_full=st.tuples(st.integers(0, 39), st.integers(0, 39)),
    seed=st.integers(0, 1000),
)
def test_decoding_gives_every_bit_back_in_numpy_and_in_a_graph(
    shape: tuple[int, int], sparsity: float, dtype: Any, empty_and_full: Any, seed: int
) -> None:
    array = random_array(shape, sparsity, dtype, seed)
    empty, full = empty_and_full
    array[empty % shape[0]] = 0
    array[full % shape[0]] = 1
    if dtype != np.int8 and seed % 3 == 0:  # bits of their own, one of them "zero"
        array[0, 0], array[-1, -1] = -0.0, np.nan
    code = Bitmask.encode(array)
    bits = f"u{array.dtype.itemsize}"
    decoded = code.decode()
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded.view(bits), array.view(bits))
    in_graph = unpack(tf.constant(code.bits), tf.constant(code.values), shape).numpy()
    np.testing.assert_array_equal(in_graph.view(bits), array.view(bits))


def test_an_array_by_hand() -> None:
    code = Bitmask.encode(np.array([[0, 0, 7], [5, 0, 0], [0, 0, 9]], np.float32))
    assert np.unpackbits(code.bits)[:9].tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 1]
    assert code.values.tolist() == [7, 5, 9]
    assert code.size_bytes == 2 + 3 * 4


def test_a_mask_keeps_zeros_that_are_trained() -> None:
    array = np.array([0, 3, 0, 0], np.float32)
    code = Bitmask.encode(array, np.array([True, True, False, False]))
    assert code.values.tolist() == [0, 3]
    np.testing.assert_array_equal(code.decode(), array)


@pytest.mark.parametrize(("sparsity", "most"), [(0.5, 0.54), (0.75, 0.29)])
def test_sizes_are_those_of_the_bound_within_three_percent(
    sparsity: float, most: float
) -> None:
    array = np.ones((768, 3072), np.float32)
    places = np.random.default_rng(0).permutation(array.size)
    array.reshape(-1)[places[: int(sparsity * array.size)]] = 0
    size = Bitmask.encode(array).size_bytes
    bound = information_bound(array.size, int((1 - sparsity) * array.size), 4)
    assert size <= most * array.nbytes
    assert bound <= size < 1.03 * bound


def test_the_bound_is_the_logarithm_of_the_number_of_masks() -> None:
    for size, stored in ((8, 3), (20, 0), (20, 20), (300, 75)):
        exact = math.log2(math.comb(size, stored)) / 8 + 4 * stored
        assert information_bound(size, stored, 4) == pytest.approx(exact, abs=1e-9)


def test_bits_and_values_must_fit() -> None:
    code = Bitmask.encode(np.array([1, 0, 2], np.float32))
    with pytest.raises(
        InputError, match="2 entries must have as many values.*3 values"
    ):
        Bitmask((3,), code.bits, np.ones(3, np.float32)).decode()
    with pytest.raises(InputError, match=r"A packed mask of shape \(9,\)"):
        Bitmask((9,), code.bits, code.values).decode()
