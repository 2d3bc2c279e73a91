"""A model that is saved and loaded goes on as if it had not been."""

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt, load_model, strip
from spdf_keras.config import GPTConfig, SparsityConfig
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.model.build import functional_gpt
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.optimization.schedule import WarmupDecay

Batches = Callable[..., Any]
FORMATS = ["model.keras", "model.h5", "model_folder"]
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "AdamW": lambda: AdamW(1e-2),
    "schedule": lambda: AdamW(WarmupDecay(1e-2, 2, 8)),
    "kept": lambda: AdamW(1e-2, kept_moments=True),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "legacy Adam": lambda: keras.optimizers.legacy.Adam(1e-2),
    "legacy Nadam": lambda: keras.optimizers.legacy.Nadam(1e-2),
    "legacy momentum": lambda: keras.optimizers.legacy.SGD(0.1, momentum=0.9),
}


def save(model: Any, path: Path) -> None:
    with warnings.catch_warnings():
        # Keras calls its HDF5 format legacy.
        warnings.filterwarnings("ignore", "You are saving your model as an HDF5 file")
        model.save(path)


def assert_equal(a: Any, b: Any) -> None:
    for path, weight in a.named_weights().items():
        np.testing.assert_array_equal(b.named_weights()[path], weight, path)
    for path, mask in a.named_masks().items():
        np.testing.assert_array_equal(b.named_masks()[path], mask, path)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("sparsity", "optimizer", "precision"),
    [
        (0.75, "schedule", "float32"),
        (0.5, "kept", "mixed_bfloat16"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (0.75, "legacy Nadam", "mixed_bfloat16"),
                (0.0, "momentum", "mixed_bfloat16"),
                (0.0, "legacy momentum", "float32"),
            )
        ),
    ],
)
def test_a_loaded_model_trains_on_as_if_it_had_not_stopped(
    small: GPTConfig,
    small_batches: Batches,
    leaks: Callable[[Any], int],
    tmp_path: Path,
    name: str,
    sparsity: float,
    optimizer: str,
    precision: str,
) -> None:
    model = build_gpt(small, sparsity, precision=precision)
    model.compile(OPTIMIZERS[optimizer](), micro_batches=2)
    model.fit(small_batches(3), verbose=0)
    save(model, tmp_path / name)
    loaded = keras.models.load_model(tmp_path / name)
    assert type(loaded) is type(model) and loaded.sparsity == sparsity
    assert_equal(model, loaded)
    assert leaks(loaded) == 0
    assert type(loaded.optimizer) is type(model.optimizer)
    assert loaded.micro_batches == 2
    for each in (model, loaded):  # `model` itself has never stopped
        each.fit(small_batches(3, seed=1), verbose=0)
    assert int(loaded.optimizer.iterations) == 6
    assert_equal(model, loaded)
    assert leaks(loaded) == 0
    dense, token_ids = strip(loaded), np.arange(8, dtype=np.int32)[None]
    np.testing.assert_array_equal(dense(token_ids), loaded(token_ids))
    assert not dense.named_masks()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("sparsity", [pytest.param(0.0, marks=pytest.mark.slow), 0.75])
def test_a_model_that_was_not_compiled_comes_back_so(
    small: GPTConfig, tmp_path: Path, name: str, sparsity: float
) -> None:
    model = functional_gpt(small, SparsityConfig(sparsity), seed=3)
    save(model, tmp_path / name)
    loaded = load_model(tmp_path / name)
    assert_equal(model, loaded)
    assert getattr(loaded, "optimizer", None) is None


@pytest.mark.parametrize("optimizer", ["AdamW", "legacy Adam"])
def test_pickling_and_copying_keep_the_optimizers_state(
    small: GPTConfig, small_batches: Batches, optimizer: str
) -> None:
    model = build_gpt(small, 0.75)
    model.compile(OPTIMIZERS[optimizer]())
    model.fit(small_batches(2), verbose=0)
    others = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    for each in (model, *others):
        each.fit(small_batches(2, seed=1), verbose=0)
    for other in others:
        assert_equal(model, other)


def test_json_configs_and_clones_have_the_masks(small: GPTConfig) -> None:
    model = build_gpt(small, 0.75, mask_seed=5)
    made = [
        keras.models.model_from_json(model.to_json()),
        type(model).from_config(model.get_config()),
        keras.models.clone_model(model),
        keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(model)
        ),
    ]
    for other in made:
        assert type(other) is type(model) and other.sizes == model.sizes
        for path, mask in model.named_masks().items():
            np.testing.assert_array_equal(other.named_masks()[path], mask)


def test_what_keras_functions_save_loads_too(
    small: GPTConfig, small_batches: Batches, tmp_path: Path
) -> None:
    model = build_gpt(small, 0.75, jit_compile=False, recompute=True)
    model.fit(small_batches(1), verbose=0)
    with pytest.warns(UserWarning, match="HDF5"):
        keras.models.save_model(model, tmp_path / "m.h5")
    loaded = load_model(tmp_path / "m.h5")
    assert_equal(model, loaded)
    assert loaded.recompute


def test_a_file_without_a_model_is_refused(small: GPTConfig, tmp_path: Path) -> None:
    build_gpt(small).save_weights(tmp_path / "only.h5")
    with pytest.raises(InputError, match="Cannot load a model from .*only.h5"):
        load_model(tmp_path / "only.h5")


@pytest.mark.parametrize(
    "kind", ["weights.h5", pytest.param("checkpoint", marks=pytest.mark.slow)]
)
def test_weights_with_the_optimizers_state_go_on_equally(
    small: GPTConfig, small_batches: Batches, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / ("c" if kind == "checkpoint" else "m.weights.h5")
    for optimizer in ("kept", "legacy Adam"):
        model, other = (build_gpt(small, 0.75, seed=seed) for seed in (1, 2))
        for each in (model, other):
            each.compile(OPTIMIZERS[optimizer]())
        model.fit(small_batches(2), verbose=0)
        model.save_weights(path)
        other.load_weights(path)
        assert_equal(model, other)
        for each in (model, other):
            each.fit(small_batches(2, seed=1), verbose=0)
        assert_equal(model, other)


def test_a_saved_reduced_rate_comes_back(
    small: GPTConfig, small_batches: Batches, tmp_path: Path
) -> None:
    model = build_gpt(small, 0.5)
    model.compile(AdamW(1e-2))
    model.fit(small_batches(1), verbose=0)
    model.optimizer.learning_rate = 0.125
    for name in FORMATS:
        save(model, tmp_path / name)
        rate = keras.models.load_model(tmp_path / name).optimizer.learning_rate
        assert isinstance(rate, tf.Variable) and float(rate) == 0.125
