"""Masks beside the weights: what the file says of itself, and files that do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import spdf_keras
from spdf_keras import GPT, GPTConfig
from spdf_keras.config import SparsityConfig
from spdf_keras.errors import InputError
from spdf_keras.interchange.huggingface.masks import read_masks


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "checkpoint"
    shutil.copytree(exported, copy)
    return copy


def change(
    folder: Path,
    about: Callable[[dict[str, str]], Any] = lambda _: None,
    packed: Callable[[dict[str, np.ndarray]], Any] = lambda _: None,
) -> None:
    file = folder / "masks.safetensors"
    with safe_open(file, "np") as reader:
        metadata = reader.metadata()
    tensors = dict(load_file(file))
    about(metadata)
    packed(tensors)
    save_file(tensors, file, metadata)


def test_the_file_can_be_read_by_what_it_says_of_itself(
    exported: Path, sparse_model: GPT
) -> None:
    with safe_open(exported / "masks.safetensors", "np") as reader:
        about = reader.metadata()
        name = "transformer.h.1.attn.c_attn.weight"
        bits = reader.get_tensor(name)
    assert "the highest bit of a byte first" in about["layout"]
    assert "round(sparsity * size)" in about["rule"]
    settings = json.loads(about["settings"])
    assert settings["sparsity"] == 0.75 and settings["seed"] == 3
    assert int(about["zeros"]) == 0.75 * int(about["size"])
    weight = load_file(exported / "model.safetensors")[name]
    mask = np.unpackbits(bits, bitorder="big")[: weight.size].reshape(weight.shape)
    value = sparse_model.named_masks()["block_1/value/kernel"].numpy()
    np.testing.assert_array_equal(mask[:, 64:], value)
    assert not np.any(weight[mask == 0])


def test_a_folder_without_masks_is_dense(tmp_path: Path, small: GPTConfig) -> None:
    assert read_masks(tmp_path, small) == (SparsityConfig(), {})


KEY = "transformer.h.0.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("about", "packed", "sentence"),
    [
        (
            lambda d: d.update(format="x"),
            None,
            "must have the format 'spdf_keras masks",
        ),
        (
            lambda d: d.update(zeros="7"),
            None,
            "do not fit the model: other tensors or c",
        ),
        (lambda d: d.update(settings="{"), None, "do not fit the model"),
        (lambda d: d.update(settings='{"sparsity": 2}'), None, r"must be in \[0, 1\)"),
        (
            lambda d: d.update(settings='{"what": 2}'),
            None,
            "Unknown setting `sparsity.w",
        ),
        (None, lambda t: t.pop(KEY), f"do not fit the model: no '{KEY}'"),
        (
            None,
            lambda t: t.update(x=np.ones(3, np.uint8)),
            "do not fit the model: other",
        ),
        (None, lambda t: t.update({KEY: np.ones(3, np.uint8)}), "must be 512 bytes of"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    folder: Path, about: Any, packed: Any, sentence: str
) -> None:
    nothing = lambda _: None  # noqa: E731
    change(folder, about or nothing, packed or nothing)
    with pytest.raises(InputError, match=sentence):
        spdf_keras.from_huggingface(folder)


def test_masks_of_other_weights_are_refused(folder: Path) -> None:
    tensors = dict(load_file(folder / "model.safetensors"))
    tensors[KEY] = np.ones_like(tensors[KEY])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="'block_0/intermediate/kernel', which is not"):
        spdf_keras.from_huggingface(folder)


def test_a_cut_file_of_masks_is_refused(folder: Path) -> None:
    file = folder / "masks.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError, match="is no complete safetensors file"):
        spdf_keras.from_huggingface(folder)


def test_a_kept_weight_of_zero_stays_kept(
    exported: Path, sparse_model: GPT, tmp_path: Path
) -> None:
    from spdf_keras.export import to_huggingface

    model = spdf_keras.from_huggingface(exported)
    weight = model.named_weights()["block_0/query/kernel"]
    mask = model.named_masks()["block_0/query/kernel"].numpy()
    value = weight.numpy()
    places = np.argwhere(mask)[:2]
    value[tuple(places[0])], value[tuple(places[1])] = 0.0, -0.0
    weight.assign(value)
    card = to_huggingface(model, tmp_path / "out")
    assert card.sparsity > 0.75
    again = spdf_keras.from_huggingface(tmp_path / "out")
    np.testing.assert_array_equal(again.named_masks()["block_0/query/kernel"], mask)
    back = again.named_weights()["block_0/query/kernel"].numpy()
    assert back.tobytes() == value.tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        SparsityConfig(0.75, 1, distribution="erk"),
        SparsityConfig(0.5, 1, structure="2:4"),
        SparsityConfig(0.5, 1, densities=("*/output=0.25",)),
        SparsityConfig(0.5, 1, method="rigl", end=9),
        SparsityConfig(0.5, 1, method="magnitude_ste", end=9),
    ],
    ids=lambda settings: f"{settings.method} {settings.structure}",
)
def test_masks_of_every_kind_and_their_settings_come_back(
    small: GPTConfig, settings: SparsityConfig, tmp_path: Path
) -> None:
    from spdf_keras.export import to_huggingface

    model = spdf_keras.build_gpt(small, settings)
    to_huggingface(model, tmp_path / "out")
    again = spdf_keras.from_huggingface(tmp_path / "out")
    assert again.mask_settings == settings
    for path, mask in model.named_masks().items():
        np.testing.assert_array_equal(mask, again.named_masks()[path])
    ids = np.arange(9)[None]
    np.testing.assert_array_equal(model(ids), again(ids))
