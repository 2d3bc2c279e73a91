"""Adam's first steps of a weight that grows late in a training."""

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras.config import SparsityConfig
from spdf_keras.model.fitting.mask_changes import MaskChange
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.sparsity.algorithms.registry import make_method

LEARNING_RATE, STEPS = 1e-3, 100


def _moves(beta_2: float, own_counts: bool) -> np.ndarray:
    """Moves of a weight that grows after a million steps, in learning rates.

    The gradient of each step is 1.
    """
    config = SparsityConfig(
        sparsity=0.5, method="rigl", end=10**6, interval=10**6, own_counts=own_counts
    )
    weight = tf.Variable([[1.0, 0.0]])
    mask = tf.Variable([[True, False]])
    optimizer = AdamW(LEARNING_RATE, 0.0, 0.9, beta_2, 1e-12, global_clipnorm=None)
    optimizer.prepare([(weight, mask)], False, method=make_method(config, 10**6))
    optimizer.build([weight])
    optimizer.iterations.assign(10**6)
    optimizer.start_cohort(1)
    change = MaskChange(optimizer, weight, mask)
    change.make(np.array([[False, True]]), 1)
    values = [0.0]
    for _ in range(STEPS):
        optimizer.apply_gradients([(tf.constant([[0.0, 1.0]]), weight)])
        values.append(float(weight[0, 1]))
    assert float(weight[0, 0]) == 0.0
    return -np.diff(values) / LEARNING_RATE


# The rounding of a weight near 0.6 is 3e-8, and that of a move 6e-5 learning rates.
TOLERANCE = 2e-4


@pytest.mark.parametrize(
    "beta_2, factors, largest",
    [
        (0.999, {1: 3.1623, 10: 6.5279, 12: 6.5685, 100: 3.2408}, 12),
        (0.98, {1: 0.7071, 14: 1.5538}, 14),
        (0.95, {1: 0.4472, 20: 1.0967, 100: 1.0029}, 20),
    ],
)
def test_by_all_steps_a_grown_weight_moves_too_far(
    beta_2: float, factors: dict[int, float], largest: int
) -> None:
    moves = _moves(beta_2, own_counts=False)
    for step, factor in factors.items():
        assert moves[step - 1] == pytest.approx(factor, abs=TOLERANCE)
    assert moves.max() == pytest.approx(factors[largest], abs=TOLERANCE)


@pytest.mark.parametrize("beta_2", [0.999, 0.98, 0.95])
def test_by_its_own_steps_it_moves_by_the_learning_rate(beta_2: float) -> None:
    moves = _moves(beta_2, own_counts=True)
    assert moves == pytest.approx(np.ones(STEPS), abs=TOLERANCE)


def test_a_count_that_rises_before_the_first_step_moves_it_too_little() -> None:
    # In SMET's code a count starts at 1, and becomes 2 before it is used.
    for beta_2, factor in ((0.999, 0.7441), (0.95, 0.7350)):
        first = (0.1 / (1 - 0.9**2)) / ((1 - beta_2) / (1 - beta_2**2)) ** 0.5
        assert first == pytest.approx(factor, abs=5e-5)
        assert _moves(beta_2, own_counts=True)[0] == pytest.approx(1.0, abs=TOLERANCE)
