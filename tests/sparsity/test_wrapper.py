"""The invariant of the project: what a mask prunes is zero, always and exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt, load_model, strip
from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.sparsity.audit import audit_masks
from spdf_keras.sparsity.masks import random_mask
from spdf_keras.sparsity.skipping import available
from spdf_keras.sparsity.wrapper import PruneFixedRandom

import tensorflow_model_optimization as tfmot  # isort: skip

Batches = Callable[..., Any]


class Recorder(AdamW):
    """Keeps the gradients as they are after clipping."""

    def build(self, var_list: Any) -> None:
        super().build(var_list)
        if not hasattr(self, "clipped"):
            self.clipped = [tf.Variable(tf.zeros(v.shape)) for v in var_list]

    def _update_all(self, strategy: Any, pairs: Any, move: Any, zero: Any) -> None:
        def record(slot: Any, gradient: Any, factor: Any) -> None:
            slot.assign(gradient * factor)

        for gradient, variable in pairs:
            slot = self.clipped[self._index_dict[self._var_key(variable)]]
            strategy.extended.update(
                slot, record, args=(gradient, move.factor), group=False
            )
        super()._update_all(strategy, pairs, move, zero)


class Violations(keras.callbacks.Callback):
    """Counts, after every step, what is not zero where a mask is."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = self.found = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        optimizer, weights = self.model.optimizer, self.model.trainable_variables
        clipped = {id(w): c for w, c in zip(weights, optimizer.clipped, strict=True)}
        for path, mask in self.model.named_masks().items():
            weight = self.model.named_weights()[path]
            for tensor in (weight, clipped[id(weight)], *optimizer.slots(weight)):
                self.found += int(np.count_nonzero(tensor.numpy()[~mask.numpy()]))


# All modes, for fewer steps: tests/training/test_modes.py.
@pytest.mark.parametrize(
    ("jit_compile", "micro_batches", "precision"),
    [
        (False, 1, "float32"),
        pytest.param(True, 2, "mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
def test_200_steps_leave_every_pruned_value_zero(
    tiny: GPTConfig,
    token_batches: Batches,
    jit_compile: bool,
    micro_batches: int,
    precision: str,
) -> None:
    model = build_gpt(tiny, 0.75, precision=precision)
    model.compile(
        # Clipping at a tenth is active in every step.
        Recorder(1e-3, global_clipnorm=0.1),
        jit_compile=jit_compile,
        micro_batches=micro_batches,
    )
    before = {path: w.numpy() for path, w in model.named_weights().items()}
    watch = Violations()
    model.fit(token_batches(200), verbose=0, callbacks=[watch])
    assert all(np.any(seen.numpy()) for seen in model.optimizer.clipped)
    assert (watch.steps, watch.found) == (200, 0)
    for path, mask in model.named_masks().items():
        assert np.mean(mask.numpy()) == 0.25
        moved = model.named_weights()[path].numpy() != before[path]
        np.testing.assert_array_equal(moved, mask.numpy())
    assert [report.violations for report in audit_masks(model)] == [0] * 12
    assert {report.density for report in audit_masks(model)} == {0.25}


@pytest.mark.parametrize(
    "recompute", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_steps_that_skip_zeros_move_kept_weights_alone_and_as_masked_steps_do(
    sizes: GPTConfig,
    tokens: tuple[np.ndarray, np.ndarray, np.ndarray],
    precision: str,
    micro_batches: int,
    recompute: bool,
) -> None:
    if not available():
        pytest.skip("needs a C++ compiler")
    ids, labels, _ = tokens
    settings: Any = {"precision": precision, "micro_batches": micro_batches}
    settings |= {"recompute": recompute, "learning_rate": 1e-2, "clip_norm": 0.1}
    masked, skips = (
        build_gpt(sizes, 0.75, compute=compute, warmup_tokens=0, **settings)
        for compute in ("dense", "sparse")
    )
    before = {path: w.numpy() for path, w in skips.named_weights().items()}
    losses = [
        model.fit(ids, labels, batch_size=4, epochs=5, shuffle=False, verbose=0)
        for model in (masked, skips)
    ]
    # bfloat16 has eight bits, and sums are taken in another order.
    rounding = 1e-5 if precision == "float32" else 2e-2
    for ours, theirs in zip(*(h.history["loss"] for h in losses), strict=True):
        assert ours == pytest.approx(theirs, rel=rounding)
    assert len(skips.sparse_kernels) == 6 and skips.optimizer.kept_moments is True
    for path, mask in skips.named_masks().items():
        weight = skips.named_weights()[path]
        moved = weight.numpy() != before[path]
        np.testing.assert_array_equal(moved, mask.numpy())
        kept = np.count_nonzero(mask.numpy())
        assert [slot.shape for slot in skips.optimizer.slots(weight)] == [(kept,)] * 2
    assert [report.violations for report in audit_masks(skips)] == [0] * 6


def test_a_leak_is_reported(tiny: GPTConfig) -> None:
    model = build_gpt(tiny, 0.75)
    kernel = model.named_weights()["block_1/query/kernel"]
    kernel.assign(tf.ones_like(kernel))
    found = {r.path: r.violations for r in audit_masks(model) if r.violations}
    assert found == {"block_1/query/kernel": 64 * 64 * 3 // 4}


def test_the_clipping_norm_is_that_of_the_kept_weights(
    tiny: GPTConfig, token_batches: Batches
) -> None:
    batch = next(iter(token_batches(1)))
    sparse = build_gpt(tiny, 0.75)
    dense = strip(sparse)

    def gradients(model: Any) -> dict[str, np.ndarray]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.loss.call(batch[1], model(batch[0])))
        weights = model.named_weights()
        found = tape.gradient(loss, list(weights.values()))
        return {
            path: tf.convert_to_tensor(gradient).numpy()
            for path, gradient in zip(weights, found, strict=True)
        }

    masked, full = gradients(sparse), gradients(dense)
    masks = {path: mask.numpy() for path, mask in sparse.named_masks().items()}
    for path, gradient in full.items():
        expected = gradient * masks.get(path, True)
        # The same product order: only the gradient's own sum may differ in XLA.
        np.testing.assert_allclose(masked[path], expected, rtol=1e-5, atol=1e-9)
    norm = np.sqrt(sum((g**2).sum() for g in masked.values()))
    leaky = np.sqrt(sum((g**2).sum() for g in full.values()))
    assert norm < 0.98 * leaky  # what the stock wrapper would clip by


def test_predict_and_evaluate_change_no_byte(
    tiny: GPTConfig, token_batches: Batches
) -> None:
    model = build_gpt(tiny, 0.75)
    before = [w.numpy().tobytes() for w in model.weights]
    model.evaluate(token_batches(2), verbose=0)
    model.predict(token_batches(2), verbose=0)
    assert [w.numpy().tobytes() for w in model.weights] == before


def test_sparsity_0_is_bit_identical_to_the_unwrapped_model(
    tiny: GPTConfig, token_batches: Batches
) -> None:
    dense, wrapped = build_gpt(tiny, 0.0), build_gpt(tiny, 0.5)
    assert not any(isinstance(layer, PruneFixedRandom) for layer in dense.blocks)
    for layer in wrapped.blocks:
        for mask in layer.masks:
            mask.assign(tf.ones_like(mask))
    for path, weight in dense.named_weights().items():
        wrapped.named_weights()[path].assign(weight)
    for model in (dense, wrapped):
        model.fit(token_batches(5), verbose=0)
    for path, weight in dense.named_weights().items():
        other = wrapped.named_weights()[path]
        assert weight.numpy().tobytes() == other.numpy().tobytes(), path


def test_a_wrapper_of_sparsity_0_keeps_everything() -> None:
    from spdf_keras.model.block import GPTBlock

    x = tf.random.stateless_normal((1, 4, 8), seed=(0, 0))
    block = GPTBlock(2, seed=3, name="block_0")
    wrapped = PruneFixedRandom(GPTBlock(2, seed=3, name="block_0"), sparsity=0.0)
    np.testing.assert_array_equal(block(x), wrapped(x))


def test_masks_are_those_of_their_paths_and_a_new_layer_changes_none(
    tiny: GPTConfig,
) -> None:
    small = build_gpt(tiny, 0.75, mask_seed=7)
    deeper = build_gpt(
        GPTConfig(3, 4, 64, vocabulary_size=512, max_sequence_length=64),
        0.75,
        mask_seed=7,
    )
    for path, mask in small.named_masks().items():
        expected = random_mask(path.removesuffix("/kernel"), mask.shape, 0.75, seed=7)
        np.testing.assert_array_equal(mask, expected)
        np.testing.assert_array_equal(deeper.named_masks()[path], expected)


def test_kept_weights_start_where_those_of_the_dense_model_start(
    tiny: GPTConfig,
) -> None:
    dense, sparse = build_gpt(tiny), build_gpt(tiny, 0.75)
    masks = sparse.named_masks()
    for path, weight in sparse.named_weights().items():
        mask = masks[path].numpy() if path in masks else True
        np.testing.assert_array_equal(weight, dense.named_weights()[path] * mask)


@pytest.mark.parametrize("name", ["model.keras", "model_tf"])
def test_saving_keeps_masks_and_training_goes_on_equally(
    tiny: GPTConfig, token_batches: Batches, tmp_path: Path, name: str
) -> None:
    model = build_gpt(tiny, 0.75, micro_batches=2)
    model.fit(token_batches(3), verbose=0)
    model.save(tmp_path / name)
    loaded = load_model(tmp_path / name)
    assert type(loaded) is type(model) and loaded.sparsity == 0.75
    for path, mask in model.named_masks().items():
        np.testing.assert_array_equal(loaded.named_masks()[path], mask)
    assert loaded.micro_batches == 2
    for each in (model, loaded):
        each.fit(token_batches(3, seed=1), verbose=0)
    for path, weight in model.named_weights().items():
        np.testing.assert_array_equal(loaded.named_weights()[path], weight)
    assert not any(report.violations for report in audit_masks(loaded))


@pytest.mark.parametrize("kind", ["weights.h5", "checkpoint"])
def test_weight_files_keep_masks(tiny: GPTConfig, tmp_path: Path, kind: str) -> None:
    model, other = (build_gpt(tiny, 0.75, mask_seed=seed) for seed in (1, 2))
    if kind == "checkpoint":
        path = tf.train.Checkpoint(model=model).save(str(tmp_path / "c"))
        status = tf.train.Checkpoint(model=other).restore(path)
        status.assert_existing_objects_matched()
    else:
        model.save_weights(tmp_path / "model.weights.h5")
        other.load_weights(tmp_path / "model.weights.h5")
    for saved, loaded in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(saved, loaded)


def test_mixed_precision_keeps_float32_masters(
    tiny: GPTConfig, token_batches: Batches
) -> None:
    model = build_gpt(tiny, 0.75, precision="mixed_bfloat16")
    model.fit(token_batches(2), verbose=0)
    kernel = model.named_weights()["block_0/query/kernel"].numpy()
    kept = kernel[kernel != 0]
    rounded = tf.cast(tf.cast(kept, tf.bfloat16), tf.float32).numpy()
    assert (kept != rounded).mean() > 0.9


def test_tfmots_callback_and_stripping_know_the_wrapper(
    tiny: GPTConfig, token_batches: Batches
) -> None:
    model = build_gpt(tiny, 0.5)
    callback = tfmot.sparsity.keras.UpdatePruningStep()
    model.fit(token_batches(2), verbose=0, callbacks=[callback])
    assert not any(report.violations for report in audit_masks(model))
    stripped = tfmot.sparsity.keras.strip_pruning(model)
    assert [layer.name for layer in stripped.blocks] == ["block_0", "block_1"]


def test_what_is_no_saved_gpt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.keras").write_text("no model")
    layer = keras.layers.Dense(1)
    keras.Sequential([keras.Input((1,)), layer]).save(tmp_path / "b.keras")
    for name, sentence in (
        ("none.keras", "There is no model at"),
        ("a.keras", "Cannot load a model from"),
        ("b.keras", "holds no GPT. Received: Sequential"),
    ):
        with pytest.raises(InputError, match=sentence):
            load_model(tmp_path / name)
