"""Every callback of Keras and tfmot works with a masked model, or is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spdf_keras import build_gpt, load_model
from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.optimization.adamw import AdamW

import tensorflow_model_optimization as tfmot  # isort: skip

Batches = Callable[..., Any]
callbacks = keras.callbacks


def compiled(sizes: GPTConfig, sparsity: float = 0.75, rate: float = 1e-2) -> Any:
    model = build_gpt(sizes, sparsity)
    model.compile(AdamW(rate))
    return model


def tags(folder: Path, kind: str = "tensors") -> list[str]:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return list(events.Tags()[kind])


def test_tensorboard_draws_weights_and_masks(
    small: GPTConfig, small_batches: Batches, tmp_path: Path
) -> None:
    model = compiled(small)
    board = callbacks.TensorBoard(tmp_path, histogram_freq=1, write_images=True)
    model.fit(small_batches(2), verbose=0, callbacks=[board])
    drawn = tags(tmp_path / "train")
    for index in range(2):
        layer = f"prune_fixed_random_block_{index}"
        for name in ("mask/query_0", "query/kernel_0", "query/bias_0"):
            for kind in ("histogram", "image"):
                assert f"{layer}/{name}/{kind}" in drawn


@pytest.mark.parametrize("loaded", [False, True])
def test_pruning_summaries_have_the_sparsity_of_each_mask(
    small: GPTConfig, small_batches: Batches, tmp_path: Path, loaded: bool
) -> None:
    model = compiled(small)
    if loaded:
        model.save(tmp_path / "m.keras")
        model = load_model(tmp_path / "m.keras")
    summaries = tfmot.sparsity.keras.PruningSummaries(str(tmp_path / "logs"))
    steps = tfmot.sparsity.keras.UpdatePruningStep()
    model.fit(small_batches(2), verbose=0, callbacks=[steps, summaries])
    events = EventAccumulator(str(tmp_path / "logs/metrics"))
    events.Reload()
    sparsities = [tag for tag in events.Tags()["tensors"] if tag.endswith("/sparsity")]
    assert len(sparsities) == len(model.named_masks()) == 12
    for tag in sparsities:
        value = tf.make_ndarray(events.Tensors(tag)[0].tensor_proto)
        assert float(value) == 0.75


@pytest.mark.parametrize("rate", ["float", "constant", "legacy"])
def test_callbacks_set_a_rate_that_is_a_float(
    small: GPTConfig, small_batches: Batches, rate: str
) -> None:
    model = compiled(small)
    if rate == "constant":  # a schedule that neither rises nor falls
        model = build_gpt(
            small, 0.75, learning_rate=1e-2, warmup_tokens=0, final_learning_rate=1.0
        )
    if rate == "legacy":
        model.compile(keras.optimizers.legacy.Adam(1e-2))
    plateau = callbacks.ReduceLROnPlateau("loss", 0.1, patience=0, min_delta=100.0)
    fitted = model.fit(small_batches(1), epochs=3, verbose=0, callbacks=[plateau])
    assert np.allclose(fitted.history["lr"], [1e-2, 1e-2, 1e-3])
    keras.backend.set_value(model.optimizer.lr, 1e-2)
    halve = callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    fitted = model.fit(small_batches(1), epochs=3, verbose=0, callbacks=[halve])
    assert np.allclose(fitted.history["lr"], [5e-3, 2.5e-3, 1.25e-3])


def test_the_rate_that_a_callback_sets_is_that_of_the_step(
    small: GPTConfig, small_batches: Batches
) -> None:
    models = [compiled(small, rate=1e-2), compiled(small, rate=5e-3)]
    halve = callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    models[0].fit(small_batches(2), verbose=0, callbacks=[halve])
    models[1].fit(small_batches(2), verbose=0)
    for path, weight in models[0].named_weights().items():
        np.testing.assert_array_equal(weight, models[1].named_weights()[path])


@pytest.mark.parametrize(
    "callback",
    [
        callbacks.ReduceLROnPlateau(),
        callbacks.LearningRateScheduler(lambda epoch: 1e-3),
    ],
)
def test_callbacks_that_set_the_rate_of_a_schedule_are_refused(
    small: GPTConfig, small_batches: Batches, callback: Any
) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
    model = build_gpt(small, 0.75)  # has a schedule of its own
    for optimizer in (
        model.optimizer,
        keras.optimizers.Adam(schedule),
        keras.optimizers.legacy.Adam(schedule),
    ):
        model.compile(optimizer)
        with pytest.raises(
            InputError, match=f"must not set .*Received: {type(callback).__name__}. Com"
        ):
            model.fit(small_batches(1), verbose=0, callbacks=[callback])
        assert int(model.optimizer.iterations) == 0


def test_early_stopping_brings_back_the_best_weights_and_their_masks(
    small: GPTConfig, small_batches: Batches, leaks: Callable[[Any], int]
) -> None:
    model = compiled(small)
    after: list[Any] = []
    keep = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: after.append(model.get_weights())
    )
    # A growing monitor: the first epoch is the best.
    count = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(worse=float(epoch))
    )
    stop = callbacks.EarlyStopping("worse", patience=1, restore_best_weights=True)
    model.fit(small_batches(2), epochs=5, verbose=0, callbacks=[keep, count, stop])
    assert len(after) == 2
    for weight, best in zip(model.get_weights(), after[0], strict=True):
        np.testing.assert_array_equal(weight, best)
    assert leaks(model) == 0


@pytest.mark.parametrize(
    "name",
    [
        "m_tf",
        "m_{epoch}.keras",
        pytest.param("m.keras", marks=pytest.mark.slow),
        pytest.param("m.h5", marks=pytest.mark.slow),
    ],
)
def test_model_checkpoints_load(
    small: GPTConfig, small_batches: Batches, tmp_path: Path, name: str
) -> None:
    model = compiled(small)
    saving = callbacks.ModelCheckpoint(str(tmp_path / name))
    if name.endswith(".h5"):
        with pytest.warns(UserWarning, match="HDF5"):
            model.fit(small_batches(2), verbose=0, callbacks=[saving])
    else:
        model.fit(small_batches(2), verbose=0, callbacks=[saving])
    loaded = load_model(tmp_path / name.format(epoch=1))
    for each in (model, loaded):
        each.fit(small_batches(1, seed=1), verbose=0)
    for path, weight in model.named_weights().items():
        np.testing.assert_array_equal(loaded.named_weights()[path], weight)


@pytest.mark.parametrize("name", ["w", "w.h5", "w.weights.h5"])
def test_weight_checkpoints_load_into_dense_models(
    small: GPTConfig, small_batches: Batches, tmp_path: Path, name: str
) -> None:
    model, dense = compiled(small), compiled(small, 0.0)
    saving = callbacks.ModelCheckpoint(
        str(tmp_path / name),
        monitor="loss",
        save_best_only=True,
        save_weights_only=True,
    )
    model.fit(small_batches(2), verbose=0, callbacks=[saving])
    dense.load_weights(tmp_path / name)
    for path, weight in model.named_weights().items():
        np.testing.assert_array_equal(dense.named_weights()[path], weight)


class Kill(keras.callbacks.Callback):
    """Ends a training after so many batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "save_freq", "killed"),
    [
        ("plain", 3, 10),
        ("kept", 2, 5),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("plain", 3, 4),
                ("shuffled", 3, 10),
                ("shuffled", "epoch", 12),
                ("repeated", 3, 10),
                ("repeated", "epoch", 12),
                ("legacy", 3, 10),
                ("arrays", 3, 10),
            )
        ),
    ],
)
def test_backup_and_restore_goes_on_exactly(
    small: GPTConfig,
    small_batches: Batches,
    leaks: Callable[[Any], int],
    tmp_path: Path,
    kind: str,
    save_freq: Any,
    killed: int,
) -> None:
    def fit(model: Any, *others: Any) -> None:
        data = small_batches(5)
        settings: dict[str, Any] = {}
        if kind == "shuffled":
            data = data.unbatch().shuffle(20, seed=3).batch(4, drop_remainder=True)
        if kind == "repeated":
            data = data.repeat()
            settings["steps_per_epoch"] = 4
        if kind == "arrays":
            x, y = zip(*data.unbatch().as_numpy_iterator(), strict=True)
            settings.update(x=np.array(x), y=np.array(y), batch_size=4, shuffle=False)
        else:
            settings["x"] = data
        model.fit(**settings, epochs=4, verbose=0, callbacks=list(others))

    def new() -> Any:
        model = build_gpt(small, 0.75, kept_moments=kind == "kept")
        if kind == "legacy":
            model.compile(keras.optimizers.legacy.Adam(1e-2))
        return model

    whole, first, second = new(), new(), new()
    tf.random.set_seed(0)
    fit(whole)
    backup = str(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(first, callbacks.BackupAndRestore(backup, save_freq), Kill(killed))
    tf.random.set_seed(0)
    fit(second, callbacks.BackupAndRestore(backup, save_freq))
    assert int(second.optimizer.iterations) == int(whole.optimizer.iterations)
    for path, weight in whole.named_weights().items():
        np.testing.assert_array_equal(second.named_weights()[path], weight, path)
    assert leaks(second) == 0
    second.fit(small_batches(1), verbose=0)  # and a later fit skips nothing
    assert int(second.optimizer.iterations) == int(whole.optimizer.iterations) + 1


def test_the_other_callbacks_run(
    small: GPTConfig, small_batches: Batches, tmp_path: Path
) -> None:
    model = compiled(small)
    batches: list[int] = []
    board = callbacks.TensorBoard(
        tmp_path / "logs", update_freq="batch", embeddings_freq=1, profile_batch=0
    )
    model.fit(
        small_batches(2),
        epochs=2,
        verbose=0,
        validation_data=small_batches(1, seed=1),
        callbacks=[
            callbacks.CSVLogger(tmp_path / "log.csv"),
            callbacks.TerminateOnNaN(),
            callbacks.LambdaCallback(on_batch_end=lambda b, logs: batches.append(b)),
            callbacks.experimental.BackupAndRestore(str(tmp_path / "backup")),
            board,
        ],
    )
    assert batches == [0, 1, 0, 1]
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert len(rows) == 2 and {"loss", "val_loss"} <= rows[0].keys()
    assert all(np.isfinite(float(row["val_loss"])) for row in rows)
    assert json.loads(model.to_json())["class_name"] == "GPT"
