"""Weights go between dense and sparse models, in every format, or are refused."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt, strip
from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.sparsity.masks import random_mask

Batches = Callable[..., Any]
FORMATS = ("keras", "weights.h5", "h5", "model.h5", "checkpoint", "tracked", "folder")
PAIRS = [(0.0, 0.75), (0.75, 0.0), (0.5, 0.5)]


def as_trained(model: Any, seed: int) -> Any:
    """The model with weights and moments as after a training, for less time."""
    rng = np.random.default_rng(seed)
    model.optimizer.build(model.trainable_variables)
    for path, weight in model.named_weights().items():
        mask = model.named_masks().get(path)
        for variable in (weight, *model.optimizer.slots(weight)):
            value = np.abs(rng.normal(size=variable.shape))
            if mask is not None and variable.shape == mask.shape:
                value = np.where(mask.numpy(), value, 0)
            variable.assign(value)
    model.optimizer.iterations.assign(seed)
    return model


@pytest.fixture(scope="module")
def trained(small: GPTConfig) -> dict[float, Any]:
    """A model of each sparsity."""
    sparsities = (0.0, 0.5, 0.75)
    return {s: as_trained(build_gpt(small, s, seed=1), 7) for s in sparsities}


def write(model: Any, folder: Path, kind: str) -> str:
    """Saves the weights in a format of Keras or TensorFlow, and gives their path."""
    if kind == "tracked":
        return str(tf.train.Checkpoint(model=model).save(str(folder / "t")))
    path = str(folder / f"m.{kind}" if "." in kind or len(kind) < 6 else folder / kind)
    if kind in ("keras", "model.h5", "folder"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are saving your model as an HDF5")
            model.save(path)
    else:
        model.save_weights(path)
    return path


def assert_taken(source: Any, target: Any, mask_seed: int) -> None:
    """Every weight is the source's, times the target's masks where it has some."""
    for path, weight in source.named_weights().items():
        expected = weight.numpy()
        if path in target.named_masks():
            if source.named_masks():  # of equal sparsity: the masks come along
                mask = source.named_masks()[path].numpy()
            else:
                mask = random_mask(
                    path.removesuffix("/kernel"),
                    expected.shape,
                    target.sparsity,
                    mask_seed,
                )
            np.testing.assert_array_equal(target.named_masks()[path], mask)
            expected = np.where(mask, expected, 0)
        np.testing.assert_array_equal(target.named_weights()[path], expected, path)


@pytest.mark.parametrize("kind", FORMATS)
def test_weights_go_between_dense_and_sparse_models(
    small: GPTConfig,
    leaks: Callable[[Any], int],
    trained: dict[float, Any],
    tmp_path: Path,
    kind: str,
) -> None:
    for index, (source, target) in enumerate(PAIRS):
        (folder := tmp_path / str(index)).mkdir()
        path = write(trained[source], folder, kind)
        model = build_gpt(small, target, seed=2, kept_moments=target == 0.75)
        as_trained(model, 3)
        status = model.load_weights(path)
        if status is not None:
            status.expect_partial()
        assert_taken(trained[source], model, mask_seed=2)
        assert leaks(model) == 0


@pytest.mark.parametrize("kind", ["h5", "model.h5"])
def test_by_name_leaves_no_block_behind(
    small: GPTConfig, trained: dict[float, Any], tmp_path: Path, kind: str
) -> None:
    for source, target in ((0.0, 0.75), (0.75, 0.0)):
        model = build_gpt(small, target, seed=2)
        model.load_weights(write(trained[source], tmp_path, kind), by_name=True)
        assert_taken(trained[source], model, mask_seed=2)


def test_a_stripped_models_file_fits_its_sparse_model(
    small: GPTConfig, trained: dict[float, Any], tmp_path: Path
) -> None:
    path = write(strip(trained[0.5]), tmp_path, "h5")
    model = build_gpt(small, 0.5, seed=2, mask_seed=1)
    model.load_weights(path)
    token_ids = np.arange(8, dtype=np.int32)[None]
    np.testing.assert_array_equal(model(token_ids), trained[0.5](token_ids))


@pytest.mark.parametrize("kind", ["weights.h5", "h5", "checkpoint"])
def test_masks_of_another_sparsity_are_refused(
    small: GPTConfig, trained: dict[float, Any], tmp_path: Path, kind: str
) -> None:
    path = write(trained[0.5], tmp_path, kind)
    model = build_gpt(small, 0.75, seed=2)
    before = [w.numpy().tobytes() for w in model.weights]
    with pytest.raises(
        InputError, match=r"do not fit the model: 50.0% of .* 25.0% in the model. Build"
    ):
        model.load_weights(path)
    assert [w.numpy().tobytes() for w in model.weights] == before


@pytest.mark.parametrize("kind", ["weights.h5", "h5", "checkpoint"])
def test_weights_of_other_sizes_are_refused_and_change_nothing(
    trained: dict[float, Any], tmp_path: Path, kind: str
) -> None:
    path = write(trained[0.0], tmp_path, kind)
    for layers, width, sentence in (
        (3, 16, "'block_2/attention_norm/beta' is missing there and"),
        (1, 16, r"'block_1/attention_norm/beta' is \(16,\) there and unknown"),
        (2, 32, r"is \(16,\) there and \(32,\) in the model"),
    ):
        sizes = GPTConfig(layers, 2, width, vocabulary_size=32, max_sequence_length=16)
        model = build_gpt(sizes, 0.75)
        before = [w.numpy().tobytes() for w in model.weights]
        with pytest.raises(InputError, match=sentence):
            model.load_weights(path)
        assert [w.numpy().tobytes() for w in model.weights] == before
        if kind == "h5":
            with pytest.raises(InputError, match=sentence):
                model.load_weights(path, by_name=True)


def test_weights_that_do_not_fit_are_left_only_where_asked_and_named(
    trained: dict[float, Any], tmp_path: Path
) -> None:
    path = write(trained[0.0], tmp_path, "weights.h5")
    sizes = GPTConfig(3, 2, 16, vocabulary_size=32, max_sequence_length=16)
    model = build_gpt(sizes, 0.75)
    with pytest.warns(
        UserWarning, match="16 weights are not in .*block_2/query/kernel"
    ):
        model.load_weights(path, skip_mismatch=True)
    bias = "block_1/query/bias"
    np.testing.assert_array_equal(
        model.named_weights()[bias], trained[0.0].named_weights()[bias]
    )


def test_what_holds_no_weights_is_refused(small: GPTConfig, tmp_path: Path) -> None:
    model = build_gpt(small)
    (tmp_path / "text.h5").write_text("no weights")
    tf.train.Checkpoint(x=tf.Variable(1.0)).write(str(tmp_path / "other"))
    for name, sentence in (
        ("none.h5", "There are no weights at"),
        ("text.h5", "There are no weights at"),
        ("other", "holds no weights of a GPT"),
    ):
        with pytest.raises(InputError, match=sentence):
            model.load_weights(tmp_path / name)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_tensorflow_checkpoint_restores_between_dense_and_sparse(
    small: GPTConfig,
    small_batches: Batches,
    leaks: Callable[[Any], int],
    trained: dict[float, Any],
    tmp_path: Path,
    source: float,
    target: float,
) -> None:
    path = write(trained[source], tmp_path, "tracked")
    model = build_gpt(small, target, seed=2)
    tf.train.Checkpoint(model=model).restore(path).expect_partial()
    assert_taken(trained[source], model, mask_seed=2)
    model.fit(small_batches(1, seed=6), verbose=0)
    assert leaks(model) == 0


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_set_weights_takes_those_of_a_dense_or_sparse_twin(
    small: GPTConfig,
    leaks: Callable[[Any], int],
    trained: dict[float, Any],
    source: float,
    target: float,
) -> None:
    model = build_gpt(small, target, seed=2, kept_moments=source == 0.5)
    as_trained(model, 3)
    model.set_weights(trained[source].get_weights())
    assert_taken(trained[source], model, mask_seed=2)
    assert leaks(model) == 0


@pytest.mark.parametrize("kind", ["weights.h5", "checkpoint", "tracked"])
def test_whole_moments_and_those_of_kept_weights_become_each_other(
    small: GPTConfig, trained: dict[float, Any], tmp_path: Path, kind: str
) -> None:
    path = write(trained[0.5], tmp_path, kind)
    kept = build_gpt(small, 0.5, seed=2, kept_moments=True)
    kept.load_weights(path)
    (tmp_path / "back").mkdir()
    whole = build_gpt(small, 0.5, seed=3)
    whole.load_weights(write(kept, tmp_path / "back", kind))
    assert int(kept.optimizer.iterations) == int(whole.optimizer.iterations) == 7
    for name, weight in trained[0.5].named_weights().items():
        expected = trained[0.5].optimizer.slots(weight)
        slots = whole.optimizer.slots(whole.named_weights()[name])
        for ours, theirs in zip(slots, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_moments_of_kept_weights_move_with_the_masks(
    small: GPTConfig, small_batches: Batches
) -> None:
    # The same moments, held whole and held for kept weights alone.
    models = [
        build_gpt(small, 0.5, mask_seed=1, kept_moments=kept) for kept in (False, True)
    ]
    other = build_gpt(small, 0.5, mask_seed=2)
    for model in models:
        model.fit(small_batches(2), verbose=0)
        model.set_weights(other.get_weights())
        model.fit(small_batches(2, seed=1), verbose=0)
    for path, weight in models[0].named_weights().items():
        np.testing.assert_array_equal(models[1].named_weights()[path], weight, path)


def test_values_assigned_under_the_masks_are_gone_after_fit(
    small: GPTConfig, small_batches: Batches, leaks: Callable[[Any], int]
) -> None:
    model = build_gpt(small, 0.75)
    model.fit(small_batches(1), verbose=0)
    for weight in model.trainable_variables:
        weight.assign(tf.ones_like(weight))
        for slot in model.optimizer.slots(weight):
            slot.assign(tf.ones_like(slot))
    assert leaks(model) > 0
    model.fit(small_batches(1), verbose=0)
    assert leaks(model) == 0
