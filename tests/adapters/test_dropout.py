import numpy as np
import pytest
import tensorflow as tf

from spdf_keras.adapters.dropout import Dropout, step_draws


def draw(
    rows: int, first: int = 0, step: int = 7, seed: int = 1, width: int = 6
) -> np.ndarray:
    """The dropout of ones, `(rows, 5, width)`, of rows of a batch."""
    inputs = tf.ones((rows, 5, width))
    with step_draws(tf.constant(step, tf.int64), lambda: first):
        dropout = Dropout.here(0.25, seed, inputs)
    return dropout(tf.reshape(inputs, (-1, width))).numpy().reshape(rows, 5, width)


def test_numbers_are_left_out_at_the_rate_and_the_others_scaled_up() -> None:
    drawn = draw(2000)
    assert set(np.unique(drawn)) == {np.float32(0), np.float32(1 / 0.75)}
    # 60,000 draws: four standard deviations.
    assert (drawn == 0).mean() == pytest.approx(
        0.25, abs=4 * (0.25 * 0.75 / 6e4) ** 0.5
    )
    for axis in (0, 1, 2):
        others = tuple({0, 1, 2} - {axis})
        assert (drawn == 0).mean(others).std() > 0 or axis == 0


@pytest.mark.parametrize("width", [3, 4, 6, 8])
def test_a_row_has_the_same_draws_in_every_part_of_the_batch(width: int) -> None:
    whole = draw(8, width=width)
    parts = [draw(2, first, width=width) for first in (0, 2, 4, 6)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_draws_differ_between_steps_seeds_and_rows() -> None:
    drawn = draw(8)
    for other in (draw(8, step=8), draw(8, seed=2), draw(8, first=8)):
        # Independent draws agree in 0.75**2 + 0.25**2 of their places.
        assert (drawn == other).mean() == pytest.approx(0.625, abs=0.13)


def test_a_loop_that_tells_no_step_draws_anew_each_time() -> None:
    x = tf.ones((8, 5, 6))
    first, second = (
        Dropout.here(0.5, 0, x)(tf.reshape(x, (-1, 6))).numpy() for _ in range(2)
    )
    assert (first != second).any()
