"""The update of AdamW in one native pass, against TensorFlow's operations and NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras.optimization import adamw
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.optimization.update import Move

pytestmark = pytest.mark.usefixtures("operations")


def move(**changed: float) -> Move:
    scalars = {
        "factor": 0.3,
        "shrink": 0.9999,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "alpha": 3e-4,
        "epsilon": 1e-8,
    }
    values = {**scalars, **changed}
    tables = {"alphas": [3e-4, 1e-3, 2e-3], "epsilons": [1e-8, 1e-9, 1e-10]}
    return Move(**{n: tf.constant(value) for n, value in (values | tables).items()})


@pytest.mark.parametrize("cohorts", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (129, 1025)], ids=str)
def test_one_pass_equals_tensorflows_operations_to_the_bit(
    instruction_set: str, shape: tuple[int, int], sparsity: float, cohorts: bool
) -> None:
    random = np.random.default_rng(0)
    mask = random.random(shape) >= sparsity
    size = np.count_nonzero(mask)
    start = [
        random.normal(size=shape),  # not zero where the mask is: nobody may move these
        random.normal(size=size) * 1e-3,
        random.random(size) * 1e-6,
    ]
    variables = [tf.Variable(value.astype(np.float32)) for value in start]
    # Scales from 1 down to 1e-9 show where epsilon stands.
    scales = 10.0 ** -random.integers(0, 10, size)
    gradient = tf.constant((random.normal(size=size) * scales).astype(np.float32))
    cohort = None
    if cohorts:
        cohort = tf.constant(random.integers(0, 3, size).astype(np.uint16))
    for factor in (1.0, 0.3, 0.0):
        step = move(factor=factor)
        weight, *moments = (variable.numpy() for variable in variables)
        before = tf.constant(weight[mask]) * step.shrink
        each = step if cohort is None else step.counted(cohort)
        moved = each(before, gradient, *map(tf.constant, moments))
        weight[mask] = moved[0].numpy()
        step.apply_natively(
            *(variables[0], gradient, variables[1], variables[2]),
            *(tf.constant(mask), cohort),
        )
        for variable, value in zip(variables, (weight, *moved[1:]), strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)


def test_a_variable_without_a_mask_moves_as_by_tensorflows_kernel(
    instruction_set: str,
) -> None:
    random = np.random.default_rng(0)
    for shape in ((70, 1000), (77,)):
        values = [random.random(shape).astype(np.float32) for _ in range(4)]
        ours, theirs = ([tf.Variable(v) for v in values[:3]] for _ in range(2))
        gradient = tf.constant(values[3])
        move().apply_natively(ours[0], gradient, *ours[1:])
        move().apply(theirs[0], gradient, theirs[1], theirs[2], tf.zeros(()))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_read_before_the_update_keeps_its_values() -> None:
    variables = [tf.Variable(np.full((2, 2), 0.5, np.float32)) for _ in range(3)]

    @tf.function
    def step() -> tf.Tensor:
        before = [tf.convert_to_tensor(variable) for variable in variables]
        move().apply_natively(variables[0], tf.ones((2, 2)), *variables[1:])
        return before

    for value in step():
        np.testing.assert_array_equal(value, np.full((2, 2), 0.5))
    assert not any((variable.numpy() == 0.5).any() for variable in variables)


@pytest.mark.parametrize("size", [3, 5])
def test_a_gradient_of_another_length_is_refused(size: int) -> None:
    mask = tf.constant([[True, True], [True, True]])
    weight = tf.Variable(tf.ones((2, 2)))
    m, v = (tf.Variable(tf.zeros(size)) for _ in range(2))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must .*kept weight"):
        move().apply_natively(weight, tf.ones(size), m, v, mask)
    np.testing.assert_array_equal(weight.numpy(), np.ones((2, 2)))


def test_a_cohort_without_an_entry_in_the_tables_is_refused() -> None:
    variables = [tf.Variable(tf.ones((2, 2))) for _ in range(3)]
    cohort = tf.constant([[0, 1], [2, 3]], tf.uint16)
    with pytest.raises(tf.errors.InvalidArgumentError, match="below 3. Received: 3"):
        move().apply_natively(
            variables[0], tf.ones((2, 2)), variables[1], variables[2], None, cohort
        )
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="an entry for each moment"
    ):
        move().apply_natively(
            variables[0], tf.ones((2, 2)), variables[1], variables[2], None, cohort[:1]
        )
    np.testing.assert_array_equal(variables[0].numpy(), np.ones((2, 2)))


def step_in_numpy(
    weight: np.ndarray, gradient: np.ndarray, moments: Any, step: int, norm: float
) -> Any:
    """AdamW with decay 0.1 and clipping at 0.5, in float64: Loshchilov and Hutter."""
    gradient = gradient * min(1.0, 0.5 / norm)
    m = 0.9 * moments[0] + 0.1 * gradient
    v = 0.999 * moments[1] + 0.001 * gradient**2
    m_hat, v_hat = m / (1 - 0.9**step), v / (1 - 0.999**step)
    return weight * (1 - 1e-4) - 1e-3 * m_hat / (np.sqrt(v_hat) + 1e-8), (m, v)


def states_of_steps(
    packed: bool, scales_loss: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Takes 8 steps with a kernel and a bias, and as many with NaN between them.

    Returns:
        The kernel, its moments and the bias, and the kernel of NumPy.
    """
    random = np.random.default_rng(1)
    mask = random.random((24, 40)) >= 0.75
    start = (random.normal(size=mask.shape) * mask).astype(np.float32)
    kernel, bias = tf.Variable(start), tf.Variable(tf.zeros(40))
    optimizer = AdamW(1e-3, 0.1, global_clipnorm=0.5, kept_moments=True)
    optimizer.prepare([(kernel, tf.Variable(mask))], scales_loss, skips=True)

    @tf.function
    def step(gradient: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
        return optimizer.step([(gradient, kernel), (slope, bias)])

    def state() -> list[np.ndarray]:
        return [v.numpy() for v in (kernel, *optimizer.slots(kernel), bias)]

    expected, moments = start.astype(np.float64), (0.0, 0.0)
    for number in range(1, 9):
        gradient = (random.normal(size=mask.shape) * mask).astype(np.float32)
        slope = random.normal(size=40).astype(np.float32)
        scale = np.float32(optimizer.loss_scale)
        given = gradient[mask] if packed else gradient
        norm = math.hypot(*map(np.linalg.norm, (gradient, slope)))
        taken = step(tf.constant(given * scale), tf.constant(slope * scale))
        assert float(taken) == pytest.approx(norm, rel=1e-5)
        expected, moments = step_in_numpy(
            expected, gradient.astype(np.float64), moments, number, norm
        )
        before = state()
        step(tf.constant(given * math.nan), tf.constant(slope))
        for value, again in zip(before, state(), strict=True):
            np.testing.assert_array_equal(value, again)
        if not scales_loss:  # loss scaling counts the steps that were taken
            optimizer.iterations.assign_sub(1)
    assert not kernel.numpy()[~mask].any()
    assert optimizer.slots(kernel)[0].shape == (np.count_nonzero(mask),)
    return state(), expected


@pytest.mark.parametrize("scales_loss", [False, True])
def test_packed_gradients_take_the_steps_of_dense_ones(
    monkeypatch: pytest.MonkeyPatch, scales_loss: bool
) -> None:
    native, expected = states_of_steps(True, scales_loss)
    dense, _ = states_of_steps(False, scales_loss)
    with monkeypatch.context() as context:
        context.setattr(adamw, "_has_operations", lambda: False)
        context.delattr(Move, "apply_natively")
        for packed, states in ((True, native), (False, dense)):
            slow, _ = states_of_steps(packed, scales_loss)
            for value, same in zip(slow, states, strict=True):
                np.testing.assert_array_equal(value, same)
    np.testing.assert_allclose(native[0], expected, rtol=0, atol=1e-6)
    for value, same in zip(native, dense, strict=True):
        # The global norm of a vector is a sum in another order than a matrix's.
        np.testing.assert_allclose(value, same, rtol=1e-5, atol=1e-8)
