from typing import Any

import numpy as np
import pytest

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.config import SparsityConfig
from spdf_keras.errors import InputError
from spdf_keras.sparsity.algorithms.base import MaskedKernel
from spdf_keras.sparsity.algorithms.registry import make_method
from spdf_keras.sparsity.structures import structure_of
from spdf_keras.sparsity.updating import updated_mask

SIZES = GPTConfig(1, 2, 16, vocabulary_size=32, max_sequence_length=8)


def _update(
    values: Any, mask: Any, gradient: Any = None, kept: int | None = None, **config: Any
) -> list[list[int]]:
    """One update at step 1 of 4 that drops a constant fraction."""
    config = {"end": 4, "drop_schedule": "constant", **config}
    mask = np.atleast_2d(mask).astype(bool)
    kernel = MaskedKernel(
        "a",
        np.atleast_2d(values).astype(np.float32),
        mask,
        None if gradient is None else np.atleast_2d(gradient).astype(np.float32),
    )
    method = make_method(SparsityConfig(**config), 4)
    new = updated_mask(method, kernel, int(mask.sum()) if kept is None else kept, 1)
    return [[int(entry) for entry in row] for row in new]


@pytest.mark.parametrize(
    "regrow, expected",
    [
        # What was dropped may grow again, as in the code of RigL, JaxPruner, Cerebras.
        (True, [1, 1, 0, 1, 1, 0, 0, 0]),
        # It may not, as in SMET's.
        (False, [1, 0, 1, 1, 1, 0, 0, 0]),
    ],
)
def test_rigl_on_one_row_grows_among_both_kinds_of_candidates(
    regrow: bool, expected: list[int]
) -> None:
    weights = [0.5, -0.1, 0, 0.3, 0, 0, 0.2, 0]
    mask = [1, 1, 0, 1, 0, 0, 1, 0]
    gradient = [0, 0.9, 0.4, 0.1, 0.8, 0.3, 0.05, 0.2]
    new = _update(
        weights,
        mask,
        gradient,
        sparsity=0.5,
        method="rigl",
        drop_fraction=0.5,
        regrow=regrow,
    )
    assert new == [expected]


def test_equal_weights_are_dropped_from_the_end_and_equal_gradients_grow_first() -> (
    None
):
    new = _update(
        [[0.1, -0.1, 0, 0], [0.1, 0.1, 0, 0]],
        [[1, 1, 0, 0], [1, 1, 0, 0]],
        [[0, 0, 0, 0.5], [0, 0, -0.5, 0.5]],
        sparsity=0.5,
        method="rigl",
        drop_fraction=0.5,
    )
    assert new == [[1, 1, 0, 1], [0, 0, 1, 0]]


def test_constant_weights_are_pruned_to_the_count_where_tfmot_keeps_all() -> None:
    values = np.full((4, 4), 0.1, np.float32)
    # tfmot keeps each weight of at least the threshold, which here is every one.
    threshold = np.sort(np.abs(values).ravel())[-4]
    assert np.count_nonzero(np.abs(values) >= threshold) == 16
    new = _update(values, np.ones((4, 4)), kept=4, sparsity=0.75, method="gmp")
    assert new == [[1, 1, 1, 1], [0] * 4, [0] * 4, [0] * 4]


@pytest.mark.parametrize("method", ["gmp", "one_shot"])
def test_n_of_m_keeps_the_largest_of_each_group(method: str) -> None:
    structured: dict[str, Any] = {
        "sparsity": 0.5,
        "method": method,
        "structure": "2:4",
        "axis": "out",
    }
    rows = [0.1, 0.4, 0.3, 0.2]
    assert _update(rows, [1] * 4, kept=2, **structured) == [[0, 1, 1, 0]]
    column = np.array(rows)[:, None]
    new = _update(column, [[1]] * 4, kept=2, **{**structured, "axis": "in"})
    assert new == [[0], [1], [1], [0]]


def test_of_equal_neighbours_the_first_are_kept_as_in_tfmot_and_not_in_jaxpruner() -> (
    None
):
    zeros = np.zeros((1, 4), np.float32)
    # JaxPruner ranks by two stable sorts, after which the last ones are the largest.
    ranks = np.argsort(np.argsort(zeros[0], kind="stable"), kind="stable")
    assert list(np.flatnonzero(ranks >= 2)) == [2, 3]
    kept = structure_of(SparsityConfig(0.5, structure="2:4", axis="out")).keep(zeros, 2)
    assert list(np.flatnonzero(kept)) == [0, 1]


def test_n_of_m_counts_the_kept_where_tfmot_counts_the_zeros() -> None:
    structure = structure_of(SparsityConfig(0.75, structure="1:4"))
    mask = structure.random("0:a", (8, 3), 6)
    assert (mask.reshape(2, 4, 3).sum(1) == 1).all()


@pytest.mark.parametrize("axis", ["in", "out"])
def test_random_groups_keep_exactly_n_along_the_named_axis(axis: str) -> None:
    config = SparsityConfig(0.5, structure="2:4", axis=axis)
    mask = structure_of(config).random("0:a", (16, 32), 256)
    along = mask.T if axis == "in" else mask
    assert (along.reshape(-1, 4).sum(1) == 2).all()
    across = mask if axis == "in" else mask.T
    assert not (across.reshape(-1, 4).sum(1) == 2).all()


def test_a_group_grows_as_many_as_it_has_lost() -> None:
    new = _update(
        [0.1, 0.2, 0, 0, 0.8, 0.9, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0],
        [0, 0, 0.3, 0.2, 0, 0, 0.9, 0.8],
        sparsity=0.5,
        method="rigl",
        structure="2:4",
        axis="out",
        drop_fraction=0.5,
    )
    # Both dropped are of the first group, though the second has larger gradients.
    assert new == [[0, 0, 1, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize("axis", ["in", "out"])
def test_gradual_pruning_ends_at_n_of_m_and_drops_only_what_it_kept(axis: str) -> None:
    config = SparsityConfig(0.5, structure="2:4", axis=axis, method="gmp", end=8)
    structure, method = structure_of(config), make_method(config, 8)
    values = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    mask = np.ones(values.shape, np.bool_)
    for step, kept in enumerate([128, 100, 80, 70, 64]):
        values = values * mask + (step + 1) * 0.01
        new = updated_mask(method, MaskedKernel("a", values * mask, mask), kept, step)
        assert np.count_nonzero(new) == kept and not np.any(new & ~mask)
        # Every group keeps at least what it will keep in the end.
        along = new.T if axis == "in" else new
        assert along.reshape(-1, 4).sum(1).min() >= 2
        mask = new
    best = structure.keep(np.abs(values * mask), 64)
    np.testing.assert_array_equal(mask, best)


def test_tiles_are_ranked_by_the_mean_of_sizes() -> None:
    values = [[3, 0.5, 1, 1], [0, 0.5, -1, -1.5]]
    kept = {"sparsity": 0.5, "method": "one_shot", "structure": "2x2"}
    # Means are 1 and 1.125; the largest entry is in the tile that is dropped.
    assert _update(values, np.ones((2, 4)), kept=4, **kept) == [[0, 0, 1, 1]] * 2


def test_random_tiles_are_whole() -> None:
    structure = structure_of(SparsityConfig(0.75, structure="4x2"))
    mask = structure.random("0:a", (16, 8), 32)
    tiles = mask.reshape(4, 4, 4, 2).sum((1, 3))
    assert sorted(np.unique(tiles)) == [0, 8]
    assert np.count_nonzero(tiles) == 4


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (
            {"sparsity": 0.6, "structure": "2:5"},
            r"`structure` 2:5 must divide the axis `in` of every matrix\. Received: "
            r"'block_0/query' with 16 inputs\.",
        ),
        (
            {"sparsity": 0.6, "structure": "2:5", "axis": "out"},
            r"must divide the axis `out` .* 'block_0/query' with 16 outputs\.",
        ),
        (
            {"sparsity": 0.5, "structure": "3x4"},
            r"`structure` 3x4 must divide every matrix\. Received: 'block_0/query' of "
            r"16 inputs and 16 outputs\.",
        ),
        (
            {"sparsity": 0.75, "structure": "2:4"},
            r"`sparsity` must be 0\.5, and `distribution` uniform, with "
            r"structure='2:4', which keeps 2 of 4\. Received: sparsity=0\.75, ",
        ),
        (
            {"sparsity": 0.5, "structure": "2:4", "distribution": "erk"},
            r"Received: sparsity=0\.5, distribution=erk\.",
        ),
        (
            {"sparsity": 0.5, "structure": "4:2"},
            r"`structure` must be unstructured, N:M such as 2:4, or RxC such as 4x4\. "
            r"Received: structure='4:2'\.",
        ),
        ({"sparsity": 0.5, "structure": "0x4"}, r"Received: structure='0x4'\."),
        ({"sparsity": 0.5, "structure": "blocks"}, r"Received: structure='blocks'\."),
        ({"sparsity": 0.5, "axis": "0"}, r"`axis` must be one of in, out\. Received: "),
    ],
)
def test_a_structure_that_matrices_cannot_have_is_refused(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        build_gpt(SIZES, SparsityConfig(**settings))
