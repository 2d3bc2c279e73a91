import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.config import SparsityConfig
from spdf_keras.errors import InputError
from spdf_keras.model.paths import masked_shapes
from spdf_keras.sparsity.distributions import kept_counts, mean_sparsity
from spdf_keras.sparsity.masks import num_zeros

SPARSITIES = st.integers(0, 99).map(lambda percent: percent / 100)


def _block(hidden_dim: int) -> dict[str, tuple[int, int]]:
    return masked_shapes(GPTConfig(1, 1, hidden_dim))


def _erk(shapes: dict[str, tuple[int, int]], sparsity: float) -> dict[str, int]:
    return kept_counts(shapes, SparsityConfig(sparsity, distribution="erk"))


# Kept weights by the rule of RigL, of JaxPruner and tfmot, of Cerebras, and by ours.
COUNTS = [
    (10, 0.75, 3, 2, 2, 2),
    (10, 0.95, 1, 1, 0, 0),
    (100, 0.8, 20, 20, 19, 20),
    (589_824, 0.75, 147_456, 147_456, 147_456, 147_456),
    (589_824, 0.8, 117_965, 117_965, 117_964, 117_965),
    (589_824, 0.9, 58_983, 58_982, 58_982, 58_982),
    (2_359_296, 0.8, 471_860, 471_859, 471_859, 471_859),
    (2_359_296, 0.9, 235_930, 235_930, 235_929, 235_930),
    (16_777_216, 0.6, 6_710_887, 6_710_886, 6_710_886, 6_710_886),
]


@pytest.mark.parametrize("size, sparsity, rigl, jaxpruner, cerebras, ours", COUNTS)
def test_zeros_are_rounded_where_references_cut_or_round_in_float32(
    size: int, sparsity: float, rigl: int, jaxpruner: int, cerebras: int, ours: int
) -> None:
    density = np.float32(1) - np.float32(sparsity)
    assert size - math.floor(sparsity * size) == rigl
    assert max(1, round(float(np.float32(size) * density))) == jaxpruner
    assert math.trunc(float(np.float32(size) * density)) == cerebras
    kept = kept_counts({"a": (1, size)}, SparsityConfig(sparsity))
    assert kept == {"a": ours} == {"a": size - num_zeros(size, sparsity)}


@pytest.mark.parametrize(
    "sparsity, square, wide",
    [
        (0.5, 0.666667, 0.416667),
        (0.75, 0.333333, 0.208333),
        (0.8, 0.266667, 0.166667),
        (0.9, 0.133333, 0.083333),
        (0.95, 0.066667, 0.041667),
        (0.2, 1.0, 0.70),  # two that are more than dense are dense
        (0.1, 1.0, 0.85),
        (0.25, 1.0, 0.625),  # exactly dense, and no more
    ],
)
@pytest.mark.parametrize("hidden_dim", [768, 2048])
def test_erk_gives_a_block_the_densities_of_the_closed_form(
    hidden_dim: int, sparsity: float, square: float, wide: float
) -> None:
    shapes = _block(hidden_dim)
    kept = _erk(shapes, sparsity)
    for path, shape in shapes.items():
        density = wide if max(shape) > hidden_dim else square
        # The densities are printed to six digits; a weight is 2e-6 of 768 x 768.
        assert kept[path] / math.prod(shape) == pytest.approx(density, abs=3e-6)
    total = sum(map(math.prod, shapes.values()))
    assert sum(kept.values()) == total - round(sparsity * total)


def test_erk_keeps_the_counts_of_gpt2_small() -> None:
    names = ("query", "key", "value", "attention_output", "intermediate", "output")
    for sparsity, square, wide in ((0.75, 196_608, 491_520), (0.5, 393_216, 983_040)):
        kept = _erk(_block(768), sparsity)
        assert [kept[f"block_0/{name}"] for name in names] == [square] * 4 + [wide] * 2


def test_the_largest_remainders_fill_the_total_and_of_equal_ones_the_first() -> None:
    shapes = _block(2048)
    kept = list(_erk(shapes, 0.75).values())
    exact = [1_398_101 + 1 / 3] * 4 + [3_495_253 + 1 / 3] * 2
    # Each alone would be rounded down, and the block would miss its total by two.
    total = sum(map(math.prod, shapes.values()))
    assert sum(map(round, exact)) == total // 4 - 2
    assert kept == [1_398_102] * 2 + [1_398_101] * 2 + [3_495_253] * 2
    # Here, floats would make the remainders of the last two matrices larger.
    assert list(_erk(_block(16), 0.34).values()) == [226] * 2 + [225] * 2 + [563] * 2


def test_a_merged_projection_has_another_density() -> None:
    shapes = {"c_attn": (768, 2304), "c_proj": (768, 768)}
    shapes |= {"c_fc": (768, 3072), "mlp_proj": (3072, 768)}
    kept = _erk(shapes, 0.75)
    densities = [kept[path] / math.prod(shape) for path, shape in shapes.items()]
    assert densities == [0.25, 0.375, 0.234375, 0.234375]


def test_embeddings_in_the_budget_make_all_matrices_denser() -> None:
    shapes = masked_shapes(GPTConfig(12, 12, 768))
    shapes |= {"wte": (50257, 768), "wpe": (2048, 768)}
    kept = _erk(shapes, 0.75)
    paths = ("block_0/query", "block_11/output", "wte", "wpe")
    densities = [kept[path] / math.prod(shapes[path]) for path in paths]
    expected = [0.370677, 0.231673, 0.188171, 0.254840]
    assert densities == pytest.approx(expected, abs=1e-6)


def test_a_small_matrix_is_dense_and_rigls_budget_cuts_zeros_per_matrix() -> None:
    shapes = {"a": (4, 4), "b": (64, 64), "c": (64, 256)}
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    golden = {0.8: (0.284946987, 0.178091867), 0.9: (0.141950335, 0.088718959)}
    for sparsity, (b, c) in golden.items():
        # In RigL's code a matrix has floor(s * N) zeros, and a dense one so many less.
        zeros = {path: math.floor(sparsity * size) for path, size in sizes.items()}
        budget = sum(sizes[path] - zeros[path] for path in "bc") - zeros["a"]
        scale = budget / (64 + 64 + 64 + 256)
        theirs = [scale * 128 / 4096, scale * 320 / 16384]
        assert theirs == pytest.approx([b, c], abs=1e-9)
        kept = _erk(shapes, sparsity)
        total = sum(sizes.values())
        assert kept["a"] == 16
        assert sum(kept.values()) == total - round(sparsity * total)
        assert [kept[path] / sizes[path] for path in "bc"] == pytest.approx(
            [b, c], abs=1e-3
        )
        assert sum(kept.values()) < 16 + budget


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=8),
    SPARSITIES,
)
def test_erk_keeps_the_exact_total_and_no_more_than_a_matrix_has(
    shapes: list[tuple[int, int]], sparsity: float
) -> None:
    named = {str(index): shape for index, shape in enumerate(shapes)}
    kept = _erk(named, sparsity)
    total = sum(map(math.prod, shapes))
    assert sum(kept.values()) == total - round(sparsity * total)
    for path, shape in named.items():
        assert 0 <= kept[path] <= math.prod(shape)
    assert mean_sparsity(named, kept) == pytest.approx(round(sparsity * total) / total)


@given(st.integers(1, 12), SPARSITIES)
def test_erk_of_equal_matrices_is_uniform_to_a_weight(
    count: int, sparsity: float
) -> None:
    shapes = {str(index): (24, 16) for index in range(count)}
    counts = _erk(shapes, sparsity).values()
    assert max(counts) - min(counts) <= 1


def test_tiles_are_counted_as_a_whole() -> None:
    shapes = {"a": (6, 10), "b": (8, 8)}
    kept = kept_counts(shapes, SparsityConfig(0.75, structure="2x2"))
    assert kept == {"a": 4 * (15 - round(11.25)), "b": 4 * 4}
    erk = SparsityConfig(0.5, structure="2x2", distribution="erk")
    assert sum(kept_counts(shapes, erk).values()) == 4 * (31 - round(15.5))


def test_a_table_gives_matrices_a_density_and_the_first_line_that_fits_counts() -> None:
    table = ("block_0/output=0.125", "*/output = 0.25", "*/query=1")
    config = SparsityConfig(0.75, densities=table)
    kept = kept_counts(masked_shapes(GPTConfig(2, 2, 16)), config)
    assert kept["block_0/output"] == 128
    assert kept["block_1/output"] == 256
    assert kept["block_0/query"] == 256
    assert kept["block_0/key"] == 64


def test_matrices_outside_the_table_share_the_sparsity_as_erk_says() -> None:
    shapes = _block(768)
    config = SparsityConfig(0.75, distribution="erk", densities=("*/query=0.5",))
    kept = kept_counts(shapes, config)
    rest = {path: shape for path, shape in shapes.items() if "query" not in path}
    assert kept.pop("block_0/query") == 768 * 768 // 2
    assert kept == _erk(rest, 0.75)


@pytest.mark.parametrize(
    "densities, sentence",
    [
        (
            ["*/outptu=0.1"],
            r"`densities` must fit a matrix\. Received: '\*/outptu=0\.1', which fits "
            r"none of block_0/query to block_0/output\.",
        ),
        (
            ["*/output"],
            r"`densities` must be lines such as '\*/output=0\.1', of a pattern and a "
            r"density in \(0, 1\]\. Received: '\*/output'\.",
        ),
        (["*=0"], r"density in \(0, 1\]\. Received: '\*=0'\."),
        (["*=1.5"], r"density in \(0, 1\]\. Received: '\*=1\.5'\."),
        (["*=nan"], r"density in \(0, 1\]\. Received: '\*=nan'\."),
        (["*=much"], r"density in \(0, 1\]\. Received: '\*=much'\."),
    ],
)
def test_a_wrong_table_is_refused_when_the_model_is_built(
    densities: list[str], sentence: str
) -> None:
    sizes = GPTConfig(1, 2, 16, vocabulary_size=32, max_sequence_length=8)
    with pytest.raises(InputError, match=sentence):
        build_gpt(sizes, SparsityConfig(0.5, densities=tuple(densities)))
