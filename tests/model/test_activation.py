"""The exact form of GELU: its value, and where a model remembers which form it has."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import spdf_keras
from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.config import Config, load_config, to_toml
from spdf_keras.errors import InputError
from spdf_keras.kernels import gelu
from spdf_keras.model.block import GPTBlock
from spdf_keras.model.fitting.shared_block import are_alike


@pytest.fixture(scope="module")
def exact() -> GPTConfig:
    return GPTConfig(
        2, 2, 16, vocabulary_size=64, max_sequence_length=16, activation="gelu"
    )


def wide(model: GPT) -> GPT:
    """Gives the model weights with which the two forms differ."""
    random = np.random.default_rng(0)
    for path, weight in model.named_weights().items():
        weight.assign_add(random.normal(0, 0.2, weight.shape).astype(np.float32))
        if path.endswith("intermediate/bias"):
            weight.assign_sub(tf.fill(weight.shape, 2.5))  # they differ most there
        if path.endswith("output/kernel") and "attention" not in path:
            weight.assign(10 * weight)
    return model


def test_both_forms_equal_their_definitions() -> None:
    x = np.linspace(-6, 6, 301)
    erf = 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    kernel, inputs = tf.zeros((1, 1)), tf.constant(x, tf.float32)
    # Rounding of float32, in numbers up to 6.
    np.testing.assert_allclose(gelu(inputs, kernel, exact=True), erf, atol=2e-6)
    np.testing.assert_allclose(gelu(inputs, kernel), tanh, atol=2e-6)
    assert np.abs(erf - tanh).max() == pytest.approx(4.7e-4, rel=0.01)


def test_the_two_forms_give_other_logits(exact: GPTConfig) -> None:
    tanh = dataclasses.replace(exact, activation="gelu_new")
    ids = np.arange(16)[None]
    a, b = (wide(build_gpt(sizes))(ids).numpy() for sizes in (exact, tanh))
    assert np.abs(a - b).max() > 1e-3 * np.abs(a).max()


@pytest.mark.parametrize("ending", ["m.keras", "folder"])
def test_a_saved_model_keeps_its_form(
    exact: GPTConfig, tmp_path: Path, ending: str
) -> None:
    model = build_gpt(exact, 0.5)
    model.save(tmp_path / ending)
    loaded = spdf_keras.load_model(tmp_path / ending)
    assert loaded.sizes == exact
    assert spdf_keras.strip(loaded).sizes == exact


def test_a_block_of_an_earlier_version_has_the_form_with_tanh() -> None:
    config = GPTBlock(2).get_config()
    del config["activation"]
    assert GPTBlock.from_config(config).activation == "gelu_new"


def test_a_config_of_an_earlier_version_loads_and_is_equal(tmp_path: Path) -> None:
    text = to_toml(Config())
    assert '\nactivation = "gelu_new"\n' in text
    earlier = text.replace('activation = "gelu_new"\n', "")
    (tmp_path / "config.toml").write_text(earlier)
    assert load_config(tmp_path / "config.toml") == Config()


def test_other_forms_are_refused() -> None:
    with pytest.raises(
        InputError, match="`activation` must be one of gelu_new, gelu. R"
    ):
        GPTConfig(activation="relu")


def test_blocks_of_two_forms_share_no_trace() -> None:
    blocks = [GPTBlock(2, activation=form) for form in ("gelu", "gelu_new")]
    for block in blocks:
        block.build((None, None, 8))
    assert not are_alike(blocks) and are_alike(blocks[:1] * 2)


@pytest.mark.parametrize("compute", ["dense", "sparse"])
def test_a_step_trains_the_exact_form(
    exact: GPTConfig, tokens: Any, compute: str
) -> None:
    ids, labels, _ = tokens
    model = build_gpt(exact, 0.75, compute=compute, warmup_tokens=0)
    start = {path: w.numpy() for path, w in model.named_weights().items()}
    with tf.GradientTape() as tape:
        logits = tf.cast(model(ids), tf.float32)
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        )
    weight = model.named_weights()["block_0/intermediate/bias"]
    direction = tape.gradient(loss, weight)
    model.fit(ids, labels, batch_size=8, verbose=0)
    moved = weight.numpy() - start["block_0/intermediate/bias"]
    # The first step of Adam goes against the gradient's sign.
    large = np.abs(direction) > 1e-6
    assert large.any()
    np.testing.assert_array_equal(np.sign(moved[large]), -np.sign(direction[large]))


@pytest.mark.parametrize("sparsity", [pytest.param(0.0, marks=pytest.mark.slow), 0.75])
def test_every_export_computes_the_exact_form(
    exact: GPTConfig, tmp_path: Path, sparsity: float
) -> None:
    from spdf_keras.export import to_saved_model, to_tflite, to_xla

    model = wide(build_gpt(exact, sparsity))
    # Each export compares its logits with the model's, in its own runtime.
    for export, options in (
        (to_saved_model, {"signatures": ("serving_default",)}),
        (to_tflite, {"prompt_length": 8}),
        (to_xla, {"signatures": ("forward",), "sequence_length": 8}),
    ):
        card = export(model, tmp_path / f"{export.__name__}.x", **options)
        assert card.relative_error is not None and card.relative_error < 2e-5
