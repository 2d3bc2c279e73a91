"""The precision of a model, and what Keras' global policy does to it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from spdf_keras import build_gpt, load_model, strip
from spdf_keras.config import GPTConfig, TrainConfig
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.optimization.adamw import AdamW

Tokens = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(autouse=True)
def policy_is_put_back() -> Iterator[None]:
    before = keras.mixed_precision.global_policy()
    yield
    keras.mixed_precision.set_global_policy(before)


def losses(model: Any, tokens: Tokens) -> dict[str, float]:
    fitted = model.fit(*tokens[:2], batch_size=4, shuffle=False, verbose=0)
    return {name: values[0] for name, values in fitted.history.items()}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_global_policy_gives_the_model_of_that_precision(
    sizes: GPTConfig, tokens: Tokens, policy: str
) -> None:
    given = build_gpt(sizes, 0.5, precision=policy)
    keras.mixed_precision.set_global_policy(policy)
    model = build_gpt(sizes, 0.5)
    assert model.blocks[0].compute_dtype == policy.removeprefix("mixed_")
    assert model.named_weights()["block_0/query/kernel"].dtype == "float32"
    assert type(model.optimizer) is AdamW
    expected, found = losses(given, tokens), losses(model, tokens)
    assert set(found) == {"loss", "batch_loss", "gradient_norm"}
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", pytest.param("float64", marks=pytest.mark.slow)]
)
def test_a_precision_that_is_given_holds_under_any_global_policy(
    sizes: GPTConfig, tokens: Tokens, policy: str, tmp_path: Any
) -> None:
    expected = losses(build_gpt(sizes, 0.5), tokens)
    build_gpt(sizes, 0.5).save(tmp_path / "model.keras")
    keras.mixed_precision.set_global_policy(policy)
    for model in (
        build_gpt(sizes, 0.5, precision="float32"),
        build_gpt(sizes, 0.5, train=TrainConfig()),
        load_model(tmp_path / "model.keras"),
    ):
        assert model.blocks[0].compute_dtype == "float32"
        assert type(model.optimizer) is type(strip(model).optimizer) is AdamW
        assert losses(model, tokens) == pytest.approx(expected, rel=1e-6)


def test_a_global_policy_that_a_gpt_has_not_is_refused(sizes: GPTConfig) -> None:
    keras.mixed_precision.set_global_policy("float64")
    with pytest.raises(InputError, match="Received: float64, Keras' global policy"):
        build_gpt(sizes)


def test_an_adamw_that_was_wrapped_still_logs_its_norm(
    sizes: GPTConfig, tokens: Tokens
) -> None:
    model = build_gpt(sizes, 0.5, precision="mixed_float16")
    expected = losses(model, tokens)
    wrapped = build_gpt(sizes, 0.5, precision="mixed_float16")
    wrapped.compile(keras.mixed_precision.LossScaleOptimizer(wrapped.optimizer))
    assert losses(wrapped, tokens) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_keras_loss_scaling_serves_keras_optimizers(
    sizes: GPTConfig, tokens: Tokens, precision: str
) -> None:
    # Plain descent: a gradient that was scaled and not unscaled would show.
    plain = build_gpt(sizes, 0.5)
    plain.compile(keras.optimizers.SGD(0.5))
    model = build_gpt(sizes, 0.5, precision=precision)
    optimizer = keras.optimizers.SGD(0.5)
    model.compile(keras.mixed_precision.LossScaleOptimizer(optimizer))
    expected, found = losses(plain, tokens), losses(model, tokens)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    for path, weight in plain.named_weights().items():
        other = model.named_weights()[path].numpy()
        # Eleven bits of a gradient below 1, times the rate.
        np.testing.assert_allclose(weight.numpy(), other, atol=1e-3)
        if path in model.named_masks():
            assert not other[~model.named_masks()[path].numpy()].any()
