"""Layouts of a checkpoint that are read, and checkpoints that are refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import spdf_keras
from spdf_keras import GPT
from spdf_keras.errors import InputError

Tensors = dict[str, np.ndarray]


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, without its masks."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(exported, copy)
    (copy / "masks.safetensors").unlink()
    return copy


def tensors_of(folder: Path) -> Tensors:
    return dict(load_file(folder / "model.safetensors"))


def rewrite(folder: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = tensors_of(folder)
    changed = change(tensors)
    new = changed if isinstance(changed, dict) else tensors
    save_file(new, folder / "model.safetensors", {"format": "pt"})


def set_field(folder: Path, name: str, value: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))


def shard(folder: Path) -> None:
    """Puts the tensors into two files and an index."""
    tensors = tensors_of(folder)
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {key: names[index % 2] for index, key in enumerate(tensors)}
    for name in names:
        part = {key: t for key, t in tensors.items() if places[key] == name}
        save_file(part, folder / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def bare(tensors: Tensors) -> Tensors:
    return {name.removeprefix("transformer."): t for name, t in tensors.items()}


def with_head(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]


def with_buffers(tensors: Tensors) -> None:
    for index in range(2):
        name = f"transformer.h.{index}.attn"
        tensors[f"{name}.bias"] = np.tri(48, dtype=np.uint8)[None, None]
        tensors[f"{name}.masked_bias"] = np.array(-1e4, np.float32)


@pytest.mark.parametrize(
    "change",
    [bare, with_head, with_buffers, lambda t: None],
    ids=["bare", "with_head", "with_buffers", "as_written"],
)
@pytest.mark.parametrize("sharded", [False, True])
def test_every_layout_has_the_same_weights(
    folder: Path, sparse_model: GPT, change: Callable[[Tensors], Any], sharded: bool
) -> None:
    rewrite(folder, change)
    if sharded:
        shard(folder)
    model = spdf_keras.from_huggingface(folder)
    assert not model.named_masks()
    for path, weight in sparse_model.named_weights().items():
        np.testing.assert_array_equal(weight, model.named_weights()[path])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_weights_are_widened_exactly(folder: Path, dtype: Any) -> None:
    rewrite(folder, lambda tensors: {k: t.astype(dtype) for k, t in tensors.items()})
    narrow = tensors_of_narrow(folder, dtype)
    model = spdf_keras.from_huggingface(folder)
    for path, name in (
        ("embedding/token", "wte.weight"),
        ("block_1/output/kernel", "h.1.mlp.c_proj.weight"),
    ):
        weight = model.named_weights()[path].numpy()
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(weight, narrow[f"transformer.{name}"])


def tensors_of_narrow(folder: Path, dtype: Any) -> Tensors:
    """Reads the file by its definition: a header's length, a header, the bytes."""
    content = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__")
    return {
        name: np.frombuffer(
            content[
                start + about["data_offsets"][0] : start + about["data_offsets"][1]
            ],
            dtype,
        )
        .astype(np.float32)
        .reshape(about["shape"])
        for name, about in header.items()
    }


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("model_type", "gpt_neo", "`model_type` in '.*' must be gpt2. Received: 'gpt_"),
        ("model_type", "btlm", "must be gpt2. Received: 'btlm'"),
        ("scale_attn_weights", False, "`scale_attn_weights` in '.*' must be true"),
        (
            "scale_attn_by_inverse_layer_idx",
            True,
            "inverse_layer_idx` in '.*' must be f",
        ),
        (
            "reorder_and_upcast_attn",
            True,
            "`reorder_and_upcast_attn` in '.*' must be f",
        ),
        ("add_cross_attention", True, "`add_cross_attention` in '.*' must be false"),
        ("tie_word_embeddings", False, "`tie_word_embeddings` in '.*' must be true"),
        (
            "quantization_config",
            {"bits": 4},
            "`quantization_config` in '.*' must be ab",
        ),
        ("pruned_heads", {"0": [1]}, "`pruned_heads` in '.*' must be absent"),
        ("auto_map", {"AutoModel": "m.M"}, "`auto_map` in '.*' must be absent"),
        ("activation_function", "relu", "one of gelu_new, gelu. Received: 'relu'"),
        ("activation_function", "gelu_fast", "Received: 'gelu_fast'"),
        ("activation_function", ["gelu"], "`activation_function` in '.*' must be one"),
        ("n_embd", "32", "cannot be used: `n_embd` must be int. Received: '32'"),
        ("n_layer", -1, "cannot be used: `num_layers` must be positive"),
        ("n_head", 5, "`hidden_dim` must be a multiple of num_heads=5"),
        ("n_inner", 1.5, "`n_inner` must be int"),
        ("n_layer", 10**9, "'h.2.attn.c_attn.weight' is missing.* and others"),
        ("n_layer", 1, "'transformer.h.1.* is unknown"),
        ("n_positions", 64, r"wpe.weight' has shape \(48, 32\) in place of \(64, 32\)"),
        (
            "n_inner",
            64,
            r"mlp.c_fc.weight' has shape \(32, 128\) in place of \(32, 64\)",
        ),
    ],
)
def test_a_config_that_a_gpt_here_does_not_compute_is_refused_by_name(
    folder: Path, name: str, value: Any, sentence: str
) -> None:
    set_field(folder, name, value)
    with pytest.raises(InputError, match=sentence):
        spdf_keras.from_huggingface(folder)


def test_a_config_without_fields_has_the_defaults_of_transformers(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match=r"in place of \(50257, 768\)"):
        spdf_keras.from_huggingface(folder)


def drop(name: str) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.pop(f"transformer.{name}")


def put(name: str, value: Callable[[Tensors], np.ndarray]) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: value(tensors)})


def nan(tensors: Tensors) -> np.ndarray:
    table = tensors["transformer.wpe.weight"].copy()
    table[3, 2] = np.nan
    return table


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (drop("ln_f.bias"), "Received: 'ln_f.bias' is missing."),
        (
            put("score.weight", lambda t: np.ones((2, 32), "f")),
            "'score.weight' is unkno",
        ),
        (put("h.7.attn.bias.x", lambda t: np.ones(2, "f")), "'h.7.attn.bias.x' is unk"),
        (
            put("transformer.h.0.attn.c_attn.weight", lambda t: np.ones((96, 32), "f")),
            r"c_attn.weight' has shape \(96, 32\) in place of \(32, 96\)",
        ),
        (
            put("lm_head.weight", lambda t: t["transformer.wte.weight"] + 1),
            "'lm_head.weight' in '.*' must equal 'wte.weight'",
        ),
        (
            put("lm_head.weight", lambda t: np.ones((8, 32), "f")),
            "'lm_head.weight' in '.*' must equal 'wte.weight'",
        ),
        (
            put("wte.weight", lambda t: t["transformer.wte.weight"]),
            "must be stored once. Received: ",
        ),
        (
            put("transformer.ln_f.bias", lambda t: np.ones(32, np.float64)),
            "must be float32, float16 or bfloat16. Received: '.*ln_f.bias' of F64",
        ),
        (
            put("transformer.wpe.weight", nan),
            "NaN or infinity in 'transformer.wpe.weig",
        ),
    ],
)
def test_tensors_that_are_not_those_of_the_config_are_named(
    folder: Path, change: Callable[[Tensors], Any], sentence: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(InputError, match=sentence):
        spdf_keras.from_huggingface(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tf_model.h5"])
def test_pickles_are_not_opened_and_the_way_out_is_named(
    folder: Path, name: str
) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04a pickle")
    with pytest.raises(InputError, match=f"Received: '{name}', which.*save_pretrained"):
        spdf_keras.from_huggingface(folder)


@pytest.mark.parametrize(
    "place",
    [
        "../other/model.safetensors",
        "/etc/model.safetensors",
        "a/../../model.safetensors",
        "..\\model.safetensors",
        "model.bin",
        "..safetensors",
        "",
        7,
        None,
    ],
)
def test_an_index_leads_to_no_file_outside_of_its_folder(
    folder: Path, place: Any
) -> None:
    other = folder.parent / "other"
    other.mkdir()
    shutil.copy(folder / "model.safetensors", other)
    shard(folder)
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["transformer.wte.weight"] = place
    file.write_text(json.dumps(index))
    with pytest.raises(InputError, match="must name safetensors files of its own fold"):
        spdf_keras.from_huggingface(folder)


def test_a_missing_shard_and_a_missing_tensor_of_a_shard_are_named(
    folder: Path,
) -> None:
    shard(folder)
    second = folder / "model-00002-of-00002.safetensors"
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(InputError, match="'.*00002-of-00002.safetensors' is missing"):
        spdf_keras.from_huggingface(folder)
    second.write_bytes(content)
    tensors = dict(load_file(second))
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, second)
    with pytest.raises(
        InputError, match=f"must hold the tensor '{name}', which the in"
    ):
        spdf_keras.from_huggingface(folder)


@pytest.mark.parametrize("map_", [None, [], {}, "x"])
def test_an_index_without_a_map_is_refused(folder: Path, map_: Any) -> None:
    shard(folder)
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": map_}))
    with pytest.raises(InputError, match="must have a `weight_map` of tensor to file"):
        spdf_keras.from_huggingface(folder)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_cut_file_is_refused(folder: Path, cut: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(InputError, match="is no complete safetensors file"):
        spdf_keras.from_huggingface(folder)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "Cannot read the settings of the model"),
        ("[]", "must hold a JSON object"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_config_that_is_no_object_is_refused(
    folder: Path, content: str, sentence: str
) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        spdf_keras.from_huggingface(folder)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder.*nothing is downloaded"):
        spdf_keras.from_huggingface("gpt2-of-nobody")
    with pytest.raises(InputError, match="No model in .*there is no config.json"):
        spdf_keras.from_huggingface(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match="No weights in .*expected model.safetensors"):
        spdf_keras.from_huggingface(tmp_path)
