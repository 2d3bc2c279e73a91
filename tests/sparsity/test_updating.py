"""Single updates with many equal weights and gradients, against the simulation."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_gpt import NumpyAdamW
from numpy_masks import Settings
from numpy_sparsity import Simulation

from spdf_keras.config import SparsityConfig
from spdf_keras.sparsity.algorithms.base import MaskedKernel
from spdf_keras.sparsity.algorithms.registry import make_method
from spdf_keras.sparsity.distributions import kept_counts
from spdf_keras.sparsity.structures import structure_of
from spdf_keras.sparsity.updating import initial_counts, updated_mask

TOTAL, STEP, PATH = 8, 4, "block_0/query"
STRUCTURES: list[dict[str, Any]] = [
    {},
    {"structure": "2x2"},
    {"structure": "1x4"},
    {"structure": "2:4", "sparsity": 0.5},
    {"structure": "1:4", "axis": "out"},
    {"structure": "1:2", "axis": "out", "sparsity": 0.5},
]
METHODS: list[dict[str, Any]] = [
    {"method": "set"},
    {"method": "set", "regrow": False},
    {"method": "rigl"},
    {"method": "rigl", "regrow": False},
]
COUNTED: list[dict[str, Any]] = [
    {"method": "gmp", "initial_sparsity": 0.25},
    {"method": "one_shot", "begin": STEP},
    {"method": "redense", "stages": (0.25,), "shares": (0.5,)},
    {"method": "magnitude_ste"},
]


@settings(deadline=None)
@given(
    st.one_of(
        st.tuples(st.sampled_from(METHODS), st.sampled_from(STRUCTURES)),
        st.tuples(st.sampled_from(COUNTED), st.sampled_from(STRUCTURES[:3])),
    ),
    st.sampled_from([(8, 8), (4, 16), (12, 4)]),
    st.integers(0, 2**32 - 1),
)
def test_an_update_is_that_of_the_simulation_where_scores_are_equal(
    choice: tuple[dict[str, Any], dict[str, Any]], shape: tuple[int, int], seed: int
) -> None:
    fields: dict[str, Any] = {"sparsity": 0.75, "seed": seed}
    fields |= {"interval": STEP, "end": TOTAL}
    fields |= {"drop_fraction": 0.5, "drop_schedule": "constant"}
    fields |= choice[0] | choice[1]
    config = SparsityConfig(**fields)
    method, shapes = make_method(config, TOTAL), {PATH: shape}
    rng = np.random.default_rng(seed)
    values, gradient = rng.integers(-2, 3, (2, *shape)).astype(np.float32)

    simulation = Simulation(
        Settings(**fields),
        {f"{PATH}/kernel": values.astype(np.float64)},
        num_heads=1,
        total_steps=TOTAL,
        optimizer=NumpyAdamW(1e-3, steps=STEP),
    )
    kept = initial_counts(shapes, method)[PATH]
    mask = structure_of(config).random(f"{seed}:{PATH}", shape, kept)
    np.testing.assert_array_equal(mask, simulation.masks()[f"{PATH}/kernel"])

    if not method.is_latent:
        values = values * mask
    simulation.update({f"{PATH}/kernel": gradient.astype(np.float64)})
    count = kept_counts(shapes, config, method.sparsity_at(STEP))[PATH]
    new = updated_mask(method, MaskedKernel(PATH, values, mask, gradient), count, STEP)
    expected = simulation.masks()[f"{PATH}/kernel"]
    np.testing.assert_array_equal(new, expected)
    assert np.count_nonzero(new) == count


def test_a_weight_that_is_dropped_and_grown_in_one_update_is_not_touched() -> None:
    config = SparsityConfig(
        0.5, method="rigl", drop_fraction=0.5, drop_schedule="constant", end=TOTAL
    )
    values = np.array([[0.5, -0.1, 0.2, 0.3, 0, 0, 0, 0]], np.float32)
    gradient = np.array([[0, 0.9, 0.8, 0, 0.1, 0.1, 0.1, 0.1]], np.float32)
    mask = values != 0
    kernel = MaskedKernel(PATH, values, mask, gradient)
    new = updated_mask(make_method(config, TOTAL), kernel, 4, STEP)
    np.testing.assert_array_equal(new, mask)
    assert kernel.values[0, 1] == pytest.approx(-0.1)
