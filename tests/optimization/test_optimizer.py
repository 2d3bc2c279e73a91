import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt
from spdf_keras.config import PRESETS, GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.optimization.schedule import WarmupDecay


def reference_step(
    weights: dict[str, Any],
    gradients: dict[str, Any],
    masks: dict[str, Any],
    moments: dict[str, Any],
    step: int,
) -> None:
    """Masked AdamW with clipping, in float64: Algorithm 2 of Loshchilov and Hutter."""
    rate, decay, clip, b1, b2, epsilon = 1e-3, 0.1, 0.5, 0.9, 0.999, 1e-8
    gradients = {path: g * masks.get(path, 1.0) for path, g in gradients.items()}
    norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
    for path, gradient in gradients.items():
        gradient = gradient * min(1.0, clip / norm)
        m, v = moments.get(path, (0.0, 0.0))
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        moments[path] = m, v
        w = weights[path]
        if w.ndim >= 2:
            w = w - rate * decay * w
        m_hat, v_hat = m / (1 - b1**step), v / (1 - b2**step)
        weights[path] = w - rate * m_hat / (np.sqrt(v_hat) + epsilon)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_20_steps_equal_masked_adamw_with_clipping_in_numpy(
    jit_compile: bool,
) -> None:
    # Random gradients stand for the model's: the reference sees the same ones.
    model = build_gpt(
        GPTConfig(1, 2, 16, vocabulary_size=32, max_sequence_length=8), 0.75
    )
    named, masks = model.named_weights(), model.named_masks()
    masks = {path: mask.numpy().astype(np.float64) for path, mask in masks.items()}
    optimizer = AdamW(1e-3, 0.1, global_clipnorm=0.5)
    optimizer.build(list(named.values()))

    @tf.function(jit_compile=jit_compile)
    def apply(gradients: list[tf.Tensor]) -> None:
        optimizer.apply_gradients(zip(gradients, named.values(), strict=True))

    weights = {path: w.numpy().astype(np.float64) for path, w in named.items()}
    moments: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    for step in range(1, 21):
        gradients = {
            # Scales from 1 down to 1e-9 show where epsilon stands.
            path: rng.normal(0, 10.0 ** -rng.integers(0, 10), w.shape)
            * masks.get(path, 1.0)
            for path, w in weights.items()
        }
        apply([tf.constant(g, tf.float32) for g in gradients.values()])
        rounded = {path: np.float32(g).astype(float) for path, g in gradients.items()}
        reference_step(weights, rounded, masks, moments, step)
    for path, weight in named.items():
        np.testing.assert_allclose(weight.numpy(), weights[path], rtol=0, atol=1e-6)
        for slot, expected in zip(optimizer.slots(weight), moments[path], strict=True):
            np.testing.assert_allclose(slot.numpy(), expected, rtol=1e-4, atol=1e-9)


def test_the_first_step_of_a_tiny_gradient_is_that_of_algorithm_1() -> None:
    weight = tf.Variable([0.0, 0.0, 0.0])
    optimizer = AdamW(1.0, weight_decay=0.0, global_clipnorm=None)
    optimizer.apply_gradients([(tf.constant([1e-6, 1e-8, 1e-9]), weight)])
    # |g| / (|g| + 1e-8); Keras' own gives 0.760, 0.031, 0.003.
    np.testing.assert_allclose(-weight.numpy(), [0.990, 0.5, 0.0909], atol=1e-3)


def test_decay_moves_matrices_and_not_vectors_also_after_reloading() -> None:
    for optimizer in (
        AdamW(0.1, weight_decay=0.5),
        AdamW.from_config(AdamW(0.1, weight_decay=0.5).get_config()),
    ):
        matrix, vector = tf.Variable([[1.0]]), tf.Variable([1.0])
        optimizer.apply_gradients([(tf.zeros((1, 1)), matrix), (tf.zeros(1), vector)])
        np.testing.assert_allclose(matrix.numpy(), [[0.95]], rtol=1e-6)
        assert vector.numpy().tolist() == [1.0]


def test_the_schedule_of_gpt2_small_is_that_of_the_paper() -> None:
    preset = PRESETS["gpt2_small"]
    total = preset.train.total_steps(preset.model)
    warmup = preset.train.warmup_steps(preset.model)
    assert (total, warmup) == (4778, 716)
    schedule = WarmupDecay(6e-4, warmup, total, 0.1)
    rates = {step: float(schedule(step)) for step in (0, 357, 715, 716, 2747, total)}
    assert rates[0] == pytest.approx(6e-4 / 716)
    assert rates[357] == pytest.approx(3e-4, rel=1e-6)
    assert rates[715] == rates[716] == pytest.approx(6e-4)
    assert rates[2747] == pytest.approx(3.3e-4, rel=1e-3)  # halfway, the mean
    assert rates[total] == pytest.approx(6e-5)


def test_without_warm_up_the_schedule_starts_at_the_peak() -> None:
    schedule = WarmupDecay(2.0, 0, 4, shape="linear")
    assert [float(schedule(step)) for step in range(6)] == [2.0, 1.5, 1.0, 0.5, 0, 0]


def test_accumulation_equals_the_undivided_batch(
    tiny: GPTConfig, token_batches: Callable[..., Any]
) -> None:
    # Unequal weights: a mean of the parts' means would be wrong.
    weights = tf.constant(np.random.default_rng(0).random((8, 16)), tf.float32)
    data = token_batches(6, batch_size=8).map(lambda x, y: (x, y, weights**4))
    models = [build_gpt(tiny, 0.75, micro_batches=parts) for parts in (1, 4)]
    losses = [model.fit(data, verbose=0).history["loss"][0] for model in models]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for path, weight in models[0].named_weights().items():
        # Sums in another order, through a few steps of Adam.
        np.testing.assert_allclose(
            weight.numpy(), models[1].named_weights()[path].numpy(), atol=2e-6
        )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(
    jit_compile: bool, bad: float
) -> None:
    matrix, vector = tf.Variable([[1.0, -2.0]]), tf.Variable([3.0])
    optimizer = AdamW(0.1)
    optimizer.build([matrix, vector])

    @tf.function(jit_compile=jit_compile)
    def step(gradient: tf.Tensor) -> tf.Tensor:
        return optimizer.step([(gradient, matrix), (tf.ones(1), vector)])

    def state() -> list[bytes]:
        slots = [*optimizer.slots(matrix), *optimizer.slots(vector)]
        return [v.numpy().tobytes() for v in (matrix, vector, *slots)]

    assert float(step(tf.constant([[3.0, 4.0]]))) == pytest.approx(math.sqrt(26))
    before = state()
    assert not math.isfinite(step(tf.constant([[bad, 1.0]])))
    assert state() == before
    step(tf.constant([[3.0, 4.0]]))
    assert state() != before


def test_the_loss_scale_halves_at_overflow_and_doubles_after_2000_good_steps() -> None:
    weight = tf.Variable([1.0])
    optimizer = AdamW(0.1, global_clipnorm=None)
    optimizer.prepare([], scales_loss=True)
    step = tf.function(lambda gradient: optimizer.step([(gradient, weight)]))
    scale = float(optimizer.loss_scale)
    step(tf.constant([math.inf]))
    step(tf.constant([math.nan]))
    assert weight.numpy() == [1.0] and float(optimizer.loss_scale) == scale / 4
    # The first step that is taken is Adam's first: it moves by the learning rate.
    assert float(step(tf.constant([scale / 4 * 0.5]))) == 0.5
    assert weight.numpy()[0] == pytest.approx(0.9)
    for _ in range(1999):
        step(tf.constant([1.0]))
    assert float(optimizer.loss_scale) == scale / 2


@pytest.mark.parametrize(
    "precision", [pytest.param("float32", marks=pytest.mark.slow), "mixed_float16"]
)
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_moments_of_kept_weights_alone_give_the_same_weights(
    tiny: GPTConfig,
    token_batches: Callable[..., Any],
    jit_compile: bool,
    precision: str,
) -> None:
    models = [
        build_gpt(
            tiny,
            0.75,
            kept_moments=kept,
            jit_compile=jit_compile,
            precision=precision,
            learning_rate=1e-3,
            warmup_tokens=64,
        )
        for kept in (False, True)
    ]
    # To the bit; XLA fuses the two updates differently, which rounds differently.
    steps, tolerance = (3, 1e-6) if jit_compile else (20, 0.0)
    for model in models:
        model.fit(token_batches(steps), verbose=0)
    full, kept = models
    for path, weight in full.named_weights().items():
        other = kept.named_weights()[path]
        np.testing.assert_allclose(weight, other, rtol=0, atol=tolerance)
        mask = full.named_masks().get(path)
        for all_of_them, some in zip(
            full.optimizer.slots(weight), kept.optimizer.slots(other), strict=True
        ):
            expected = all_of_them.numpy()
            if mask is not None:
                expected = expected[mask.numpy()]
                assert some.shape == (mask.shape.num_elements() // 4,)
            np.testing.assert_allclose(some, expected, rtol=0, atol=tolerance)


def test_float16_needs_an_optimizer_that_scales_the_loss(tiny: GPTConfig) -> None:
    model = build_gpt(tiny, precision="mixed_float16")
    with pytest.raises(
        InputError, match="mixed_float16 must be .*Received: Adam. Take"
    ):
        model.compile("adam")


@pytest.mark.parametrize(("micro_batches", "jit_compile"), [(1, False), (2, False)])
def test_recomputation_changes_no_result(
    tiny: GPTConfig,
    token_batches: Callable[..., Any],
    micro_batches: int,
    jit_compile: bool,
) -> None:
    models = [
        build_gpt(
            tiny,
            0.75,
            recompute=recompute,
            micro_batches=micro_batches,
            jit_compile=jit_compile,
        )
        for recompute in (False, True)
    ]
    losses = [m.fit(token_batches(5), verbose=0).history["loss"][0] for m in models]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for path, weight in models[0].named_weights().items():
        np.testing.assert_allclose(
            weight.numpy(), models[1].named_weights()[path].numpy(), atol=1e-6
        )


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": np.float32("nan")}, "learning_rate"),
        ({"weight_decay": float("inf")}, "weight_decay"),
        ({"epsilon": 1e-50}, "epsilon"),
        ({"global_clipnorm": float("nan")}, "global_clipnorm"),
    ],
)
def test_numbers_that_are_none_are_refused(arguments: Any, name: str) -> None:
    with pytest.raises(InputError, match=f"`{name}` must be "):
        AdamW(**arguments)


def test_a_schedule_and_an_optimizer_take_numpys_numbers_and_save_them() -> None:
    numbers: Any = {"peak": np.float32(0.5), "warmup_steps": np.int64(2)}
    decays: list[Any] = [np.float64(0.1), np.float32(0.5)]
    schedule = WarmupDecay(**numbers, total_steps=10, shape="linear")
    optimizer = AdamW(schedule, *decays)
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    again = keras.optimizers.deserialize(config)
    rates = [float(again._learning_rate(step)) for step in (0, 1, 2)]
    assert rates == [0.25, 0.5, 0.5]
    assert (again.beta_1, again.weight_decay) == (0.5, 0.1)
    with pytest.raises(InputError, match="`peak` must be finite"):
        WarmupDecay(float("inf"), 2, 10)
