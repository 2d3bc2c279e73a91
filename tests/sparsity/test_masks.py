import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdf_keras.errors import InputError
from spdf_keras.sparsity.masks import num_zeros, pack_mask, random_mask, unpack_mask

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(SHAPES, st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 2**40))
def test_the_number_of_zeros_is_exact(
    shape: tuple[int, int], sparsity: float, seed: int
) -> None:
    mask = random_mask("a/kernel", shape, sparsity, seed)
    assert np.count_nonzero(~mask) == round(sparsity * mask.size)


def test_the_number_of_zeros_of_the_papers_matrices_is_exact() -> None:
    for shape in ((768, 768), (768, 3072), (2048, 8192)):
        mask = random_mask("block_0/query", shape, 0.75, seed=0)
        assert np.count_nonzero(mask) * 4 == mask.size
    assert num_zeros(10, 0.25) == 2  # ties go to the even number, as round() does


def test_a_mask_is_the_same_on_every_machine() -> None:
    mask = random_mask("block_0/intermediate", (768, 3072), 0.75, seed=0)
    assert hashlib.sha256(mask.tobytes()).hexdigest().startswith("ef7c75bff289ed24")


def test_weights_of_one_shape_get_different_masks() -> None:
    a = random_mask("layer_0/kernel", (64, 64), 0.5, seed=0)
    b = random_mask("layer_1/kernel", (64, 64), 0.5, seed=0)
    c = random_mask("layer_0/kernel", (64, 64), 0.5, seed=1)
    # Four standard deviations of the overlap of two independent halves.
    for other in (b, c):
        assert (a & other).mean() == pytest.approx(0.25, abs=0.016)


def test_rows_and_columns_are_pruned_alike() -> None:
    mask = random_mask("a/kernel", (512, 512), 0.75, seed=0)
    for axis in (0, 1):
        density = mask.mean(axis)
        assert density.mean() == 0.25
        # A binomial share of 512 draws has a deviation of 0.0191.
        assert density.std() == pytest.approx(0.0191, rel=0.15)


@given(SHAPES, st.floats(0.0, 0.99))
def test_packing_takes_a_bit_per_weight_and_back(
    shape: tuple[int, int], sparsity: float
) -> None:
    mask = random_mask("a", shape, sparsity, seed=0)
    bits = pack_mask(mask)
    assert bits.nbytes == -(-mask.size // 8)
    np.testing.assert_array_equal(unpack_mask(bits, shape), mask)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan"), 2])
def test_a_sparsity_outside_its_range_is_refused(sparsity: float) -> None:
    with pytest.raises(InputError, match=r"`sparsity` must be in \[0, 1\).*'a/kernel'"):
        random_mask("a/kernel", (2, 2), sparsity, seed=0)


def test_bits_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="must be 2 bytes of uint8"):
        unpack_mask(np.zeros(1, np.uint8), (3, 4))
