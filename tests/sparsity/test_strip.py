from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spdf_keras import build_gpt, strip
from spdf_keras.config import GPTConfig
from spdf_keras.keras2 import keras

import tensorflow_model_optimization as tfmot  # isort: skip


def test_a_stripped_model_gives_the_same_logits_to_the_bit(
    tiny: GPTConfig, token_batches: Callable[..., Any]
) -> None:
    model = build_gpt(tiny, 0.75)
    model.fit(token_batches(3), verbose=0)
    dense = strip(model)
    batch = token_batches(2, seed=1)
    logits, stripped = (m.predict(batch, verbose=0) for m in (model, dense))
    assert logits.tobytes() == stripped.tobytes()
    assert dense.sparsity == 0.0 and not dense.named_masks()
    assert len(dense.weights) == len(dense.trainable_weights)


def test_every_weight_of_a_stripped_model_trains_with_fresh_moments(
    tiny: GPTConfig, token_batches: Callable[..., Any]
) -> None:
    model = build_gpt(tiny, 0.75, warmup_tokens=0, learning_rate=1e-3)
    model.fit(token_batches(3), verbose=0)
    before = {path: w.numpy() for path, w in model.named_weights().items()}
    dense = strip(model)
    assert int(dense.optimizer.iterations) == 0
    dense.fit(token_batches(1), verbose=0)
    for path, mask in model.named_masks().items():
        # The masked model has variables of its own.
        np.testing.assert_array_equal(model.named_weights()[path], before[path])
        step = np.abs(dense.named_weights()[path].numpy() - before[path])
        revived, kept = step[~mask.numpy()], step[mask.numpy()]
        assert (revived != 0).mean() > 0.99
        # AdamW's first step is the learning rate, whatever the gradient.
        assert np.median(revived) == pytest.approx(np.median(kept), rel=0.05)


def test_a_dense_model_is_copied(tiny: GPTConfig) -> None:
    model = build_gpt(tiny)
    dense = strip(model)
    assert dense is not model
    for ours, theirs in zip(dense.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("value", ["dense", "not finite"])
def test_values_under_the_masks_do_not_come_along(
    tiny: GPTConfig, precision: str, value: str
) -> None:
    model = build_gpt(tiny, 0.75, precision=precision)
    dense = build_gpt(tiny, seed=4)
    for path, weight in model.named_weights().items():
        new = dense.named_weights()[path].numpy() * 5
        if value == "not finite" and path in model.named_masks():
            new = np.where(model.named_masks()[path].numpy(), new, np.nan)
        weight.assign(new)
    stripped, token_ids = strip(model), np.arange(16, dtype=np.int32)[None]
    for path, mask in model.named_masks().items():
        weight = stripped.named_weights()[path].numpy()
        # In NumPy: the weights of the dense model, times the mask.
        expected = dense.named_weights()[path].numpy() * 5 * mask.numpy()
        np.testing.assert_array_equal(weight, expected)
    if value == "dense":  # a product with NaN is NaN in the masked model, too
        np.testing.assert_array_equal(stripped(token_ids), model(token_ids))


def test_stripping_tfmots_own_wrapper_masks_too() -> None:
    layer = keras.layers.Dense(4, use_bias=False)
    inner = keras.Sequential([keras.Input((8,)), layer])
    model = tfmot.sparsity.keras.prune_low_magnitude(
        inner, tfmot.sparsity.keras.ConstantSparsity(0.5, 0)
    )
    weight, mask, _ = model.layers[0].pruning_vars[0]
    mask.assign(np.arange(32).reshape(8, 4) % 2)
    weight.assign(np.ones((8, 4)))
    x = np.arange(8, dtype=np.float32)[None]
    np.testing.assert_array_equal(strip(model)(x), x @ mask.numpy())
