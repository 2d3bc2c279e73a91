import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt
from spdf_keras.config import PRESETS, GPTConfig
from spdf_keras.optimizer import AdamW, WarmupDecay


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
