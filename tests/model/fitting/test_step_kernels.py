"""Kernels that a step lays out once: they train as masked kernels do."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.keras2 import keras
from spdf_keras.native.tensorflow.operations import load_operations
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.sparsity.skipping import available

Tokens = tuple[np.ndarray, np.ndarray, np.ndarray]

# Sums of another order, through a few steps.
ATOL = 2e-6


@pytest.fixture(autouse=True)
def _library() -> None:
    if not available():
        pytest.skip("needs a C++ compiler")


def trained(sizes: GPTConfig, tokens: Tokens, compute: str, **compiled: Any) -> Any:
    model = build_gpt(sizes, 0.75, compute=compute, seed=1)
    make = compiled.pop("optimizer", lambda: AdamW(1e-3))
    penalty = compiled.pop("penalty", 0.0)
    if penalty:
        kernel = model.named_weights()["block_0/query/kernel"]
        model.add_loss(lambda: penalty * tf.reduce_sum(tf.square(kernel)))
    model.compile(make(), **compiled)
    ids, labels, _ = tokens
    model.fit(ids, labels, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model


WAYS: dict[str, dict[str, Any]] = {
    "eager": {"run_eagerly": True},
    "several steps in one call": {"steps_per_execution": 2},
    "gradient descent": {"optimizer": lambda: keras.optimizers.SGD(0.1)},
    "gradient descent in parts": {
        "optimizer": lambda: keras.optimizers.SGD(0.1),
        "micro_batches": 2,
    },
    "gradient descent, recomputed": {
        "optimizer": lambda: keras.optimizers.SGD(0.1),
        "recompute": True,
    },
    "moments of all weights": {"optimizer": lambda: AdamW(1e-3, kept_moments=False)},
    "a loss of a kernel itself": {"penalty": 0.1},
    "a loss of a kernel itself in parts": {"penalty": 0.1, "micro_batches": 2},
}
SLOW = {
    "several steps in one call",
    "gradient descent in parts",
    "gradient descent, recomputed",
    "a loss of a kernel itself in parts",
}


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=[pytest.mark.slow] if way in SLOW else [])
        for way in WAYS
    ],
)
def test_every_way_to_train_gives_the_weights_of_masked_products(
    sizes: GPTConfig, tokens: Tokens, way: str
) -> None:
    masked, skips = (
        trained(sizes, tokens, compute, **WAYS[way]) for compute in ("dense", "sparse")
    )
    assert skips.sparse_kernels and not masked.sparse_kernels
    for path, weight in masked.named_weights().items():
        other = skips.named_weights()[path].numpy()
        np.testing.assert_allclose(weight.numpy(), other, rtol=0, atol=ATOL)
    for path, mask in skips.named_masks().items():
        assert not skips.named_weights()[path].numpy()[~mask.numpy()].any()


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_lays_a_kernel_out_once(
    sizes: GPTConfig,
    tokens: Tokens,
    monkeypatch: pytest.MonkeyPatch,
    micro_batches: int,
) -> None:
    operations, laid_out = load_operations(), []
    lay_out = operations.spdf_lay_out

    def counted(*args: Any, **kwargs: Any) -> Any:
        laid_out.append(tf.compat.v1.get_default_graph())
        return lay_out(*args, **kwargs)

    monkeypatch.setattr(operations, "spdf_lay_out", counted)
    trained(sizes, tokens, "sparse", micro_batches=micro_batches)
    names = [graph.name for graph in laid_out]
    in_steps = [name for name in names if not name.endswith("scratch_graph")]
    # None is in the loop over micro-batches, which has a graph of its own.
    assert len(in_steps) == 6 and not any("body" in name for name in in_steps)


def test_a_users_own_step_trains_as_fit_does(sizes: GPTConfig, tokens: Tokens) -> None:
    ids, labels, _ = tokens
    fitted, own = (build_gpt(sizes, 0.75, compute="sparse", seed=1) for _ in range(2))
    for model in (fitted, own):
        model.compile(AdamW(1e-3))
    fitted.fit(ids[:4], labels[:4], batch_size=4, verbose=0)

    @tf.function
    def step(ids: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = own.compute_loss(ids, labels, own(ids, training=True))
        own.optimizer.minimize(loss, own.trainable_variables, tape)

    step(tf.constant(ids[:4]), tf.constant(labels[:4]))
    for path, weight in fitted.named_weights().items():
        other = own.named_weights()[path].numpy()
        np.testing.assert_allclose(weight.numpy(), other, rtol=0, atol=ATOL)
