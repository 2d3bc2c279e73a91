"""A model with an adapter: its function, its gradients, and what training leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras.adapters.attach import adapt
from spdf_keras.config import KERNELS, GPTConfig, LoRAConfig
from spdf_keras.errors import InputError
from spdf_keras.kernels import AdaptedKernel, SkippingKernel, linear
from spdf_keras.model.build import functional_gpt, load_model
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.sparsity.audit import audit_masks
from spdf_keras.sparsity.skipping import available

Build = Callable[..., Any]
MODES: dict[str, dict[str, Any]] = {
    "one graph": {},
    "micro-batches": {"micro_batches": 2},
    "recompute": {"recompute": True},
    "XLA": {"jit_compile": True},
}


def values(model: Any) -> dict[str, np.ndarray]:
    weights = {path: w.numpy() for path, w in model.named_weights().items()}
    masks = {f"{path}/mask": m.numpy() for path, m in model.named_masks().items()}
    return weights | masks


def steps(model: Any, token_ids: np.ndarray, count: int = 3, **settings: Any) -> None:
    model.compile(AdamW(1e-2, global_clipnorm=None), **settings)
    data = tf.data.Dataset.from_tensors((token_ids[:, :-1], token_ids[:, 1:]))
    model.fit(data.repeat(count), steps_per_epoch=count, verbose=0)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("compute", ["dense", "sparse"])
@pytest.mark.parametrize("sparsity", [0.0, 0.75])
def test_a_new_adapter_leaves_every_bit_of_the_logits(
    base: Build, token_ids: np.ndarray, sparsity: float, compute: str, precision: str
) -> None:
    model = base(sparsity, compute=compute, precision=precision)
    new = adapt(model, LoRAConfig(4, targets=KERNELS))
    np.testing.assert_array_equal(new(token_ids), model(token_ids))
    assert new.sparse_kernels == model.sparse_kernels
    assert len(new.trainable_variables) == 2 * 6 * 2


def test_the_kernel_computes_the_formula_and_its_gradients() -> None:
    """Against float64 and the definition, with zeros of the base skipped."""
    if not available():
        pytest.skip("needs a C++ compiler")
    rng = np.random.default_rng(0)
    arrays: tuple[Any, ...] = tuple(
        rng.normal(size=shape).astype(np.float32)
        for shape in ((6, 8), (8, 12), (8, 3), (3, 12), (12,), (6, 12))
    )
    x, w, p, q, bias, dy = arrays
    mask = rng.random((8, 12)) >= 0.75
    tensors = [tf.constant(a) for a in (x, p, q)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        skipping = SkippingKernel.lay_out(tf.constant(w), tf.constant(mask))
        kernel = AdaptedKernel(skipping, tensors[1], tensors[2], 0.5)
        y = linear(tensors[0], kernel, tf.constant(bias))
    assert tuple(kernel.shape) == (8, 12)
    x, w, p, q, bias, exact_dy = (array.astype(np.float64) for array in arrays)
    merged = w * mask + 0.5 * p @ q
    np.testing.assert_allclose(y, x @ merged + bias, rtol=1e-5, atol=1e-5)
    expected = (
        exact_dy @ merged.T,
        0.5 * x.T @ exact_dy @ q.T,
        0.5 * (x @ p).T @ exact_dy,
    )
    found = tape.gradient(y, tensors, tf.constant(dy))
    for gradient, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "compute", [pytest.param("dense", marks=pytest.mark.slow), "sparse"]
)
@pytest.mark.parametrize("mode", MODES)
def test_training_changes_adapters_alone_and_no_bit_of_weights_or_masks(
    base: Build, token_ids: np.ndarray, mode: str, compute: str
) -> None:
    model = adapt(base(compute=compute), LoRAConfig(4, dropout=0.2))
    before = values(model)
    steps(model, token_ids, **MODES[mode])
    adapters = model.named_adapters()
    for path, value in values(model).items():
        changed = not np.array_equal(value, before[path])
        assert changed == (path in adapters), path
    assert not any(report.violations for report in audit_masks(model))


@pytest.mark.parametrize("mode", ["micro-batches", "recompute"])
@pytest.mark.parametrize(
    "compute", [pytest.param("dense", marks=pytest.mark.slow), "sparse"]
)
def test_each_way_to_compute_a_step_draws_the_same_dropout(
    adapted: Build, token_ids: np.ndarray, mode: str, compute: str
) -> None:
    lora = LoRAConfig(4, dropout=0.5, targets=KERNELS)
    models = [adapted(lora=lora, compute=c) for c in ("dense", compute)]
    for model, settings in zip(models, ({}, MODES[mode]), strict=True):
        steps(model, token_ids, 2, **settings)
    plain, other = (model.named_adapters() for model in models)
    for path, weight in plain.items():
        # Sums in another order, through Adam's division by small moments.
        np.testing.assert_allclose(other[path], weight, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("compute", ["dense", "sparse"])
def test_gradients_are_those_of_the_merged_weights(
    adapted: Build, sizes: GPTConfig, token_ids: np.ndarray, compute: str
) -> None:
    """The chain rule from dL/dW of a plain dense model: dP = s dW Q', dQ = s P' dW."""
    lora = LoRAConfig(3, alpha=6.0, targets=KERNELS)
    model = adapted(lora=lora, compute=compute)
    dense = functional_gpt(sizes)
    adapters, weights = model.named_adapters(), dense.named_weights()
    for path, weight in model.named_weights().items():
        if path not in adapters:
            value = weight.numpy()
            if path.endswith("/kernel"):
                start = path.removesuffix("kernel")
                down, up = (adapters[f"{start}adapter_{p}"] for p in ("down", "up"))
                value = value + 2.0 * (down.numpy() @ up.numpy())
            weights[path].assign(value)
    inputs, labels = token_ids[:, :-1], token_ids[:, 1:]

    def gradients(model: Any, variables: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(loss)
        return tape.gradient(loss, variables)

    kernels = {p: w for p, w in weights.items() if p.endswith("/kernel")}
    of_kernels, found = gradients(dense, kernels), gradients(model, adapters)
    for path, gradient in of_kernels.items():
        start, exact = path.removesuffix("kernel"), gradient.numpy().astype(np.float64)
        down, up = (
            adapters[f"{start}adapter_{p}"].numpy().astype(np.float64)
            for p in ("down", "up")
        )
        for part, expected in (
            ("down", 2.0 * exact @ up.T),
            ("up", 2.0 * down.T @ exact),
        ):
            got = found[f"{start}adapter_{part}"].numpy()
            error = np.abs(got - expected).max() / np.abs(expected).max()
            assert error < 1e-4, (path, part)  # float32 sums in another order


def test_decoding_with_a_cache_takes_the_adapter(
    adapted: Build, token_ids: np.ndarray
) -> None:
    for compute in ("dense", "sparse"):
        model = adapted(compute=compute, lora=LoRAConfig(4, targets=KERNELS))
        prompt = token_ids[:1, :5].tolist()
        (found,) = model.generate(prompt, max_new_tokens=6)
        expected = list(prompt[0])
        for _ in range(6):
            expected.append(int(np.argmax(model(np.array([expected]))[0, -1])))
        assert found == expected[5:]


def test_a_keras_file_holds_the_adapter(
    adapted: Build, token_ids: np.ndarray, tmp_path: Path
) -> None:
    model = adapted(lora=LoRAConfig(2, targets=("key", "output")))
    steps(model, token_ids)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert loaded.lora == model.lora
    np.testing.assert_array_equal(loaded(token_ids), model(token_ids))
    assert len(loaded.trainable_variables) == 2 * 2 * 2
    other = adapted(lora=LoRAConfig(2, targets=("key", "output")))
    model.save_weights(tmp_path / "own.weights.h5")
    other.load_weights(tmp_path / "own.weights.h5")
    np.testing.assert_array_equal(other(token_ids), model(token_ids))


def test_settings_that_no_adapter_can_have_are_refused(sizes: GPTConfig) -> None:
    with pytest.raises(InputError, match="`targets` must be some of query, key, val"):
        LoRAConfig(4, targets=("c_attn",))
    with pytest.raises(InputError, match="each once. Received: targets="):
        LoRAConfig(4, targets=("query", "query"))
    with pytest.raises(InputError, match="`rank` must be positive. Received: rank=0"):
        LoRAConfig(0)
    with pytest.raises(InputError, match="`lora_rank` must be at most 32, the smaller"):
        functional_gpt(sizes, lora=LoRAConfig(33))
