"""Adapters in PEFT's files: names, orientation, ranks, scales, and what is refused."""

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spdf_keras.adapters.adapter import Adapter
from spdf_keras.adapters.attach import adapt
from spdf_keras.adapters.merge import products
from spdf_keras.adapters.peft import load_adapter, to_peft_files
from spdf_keras.config import KERNELS, LoRAConfig
from spdf_keras.errors import InputError

Build = Callable[..., Any]
FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Query, key and value are one matrix there.
PLACES = {
    "query": ("attn.c_attn", 0),
    "key": ("attn.c_attn", 1),
    "value": ("attn.c_attn", 2),
    "attention_output": ("attn.c_proj", 0),
    "intermediate": ("mlp.c_fc", 0),
    "output": ("mlp.c_proj", 0),
}


def write(model: Any, folder: Path, about: bool = True, **changes: Any) -> Path:
    tensors, metadata, config = to_peft_files(Adapter.of(model), "base")
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / FILE, metadata if about else None)
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))
    return folder


def updates(folder: Path) -> dict[str, np.ndarray]:
    """What PEFT adds to each matrix, by PEFT's rules, written out for GPT-2's names."""
    config = json.loads((folder / CONFIG).read_text())
    tensors, found = load_file(folder / FILE), {}
    for name, a in tensors.items():
        if "lora_A" not in name:
            continue
        _, _, _, _, index, part, kind, _, _ = name.split(".")
        b = tensors[name.replace("lora_A", "lora_B")]
        module = f"{part}.{kind}"
        rank = config["rank_pattern"].get(module, config["r"])
        alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
        assert len(a) == rank
        delta = alpha / rank * (b.astype(np.float64) @ a).T
        found[f"{index}/{module}"] = delta
    return found


@pytest.mark.parametrize(
    "targets",
    [("query", "value"), ("key",), ("attention_output", "output"), KERNELS],
    ids=",".join,
)
def test_the_update_of_each_matrix_is_that_of_peft(
    adapted: Build, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    model = adapted(0.0, LoRAConfig(4, 32.0, targets=targets))
    theirs, ours = updates(write(model, tmp_path / "adapter")), dict(products(model))
    assert len(ours) == 2 * len(targets)
    for index in range(2):
        for kernel, (module, place) in PLACES.items():
            delta = theirs.get(f"{index}/{module}")
            expected = ours.get(f"block_{index}/{kernel}/kernel")
            if delta is None:
                assert expected is None
                continue
            parts = np.split(delta, 3 if module == "attn.c_attn" else 1, axis=1)
            if expected is None:  # a third without an adapter
                assert not parts[place].any()
            else:
                np.testing.assert_allclose(parts[place], expected, rtol=1e-6, atol=1e-9)


def test_rank_and_alpha_of_the_recipe_are_doubled_where_two_matrices_are_one(
    adapted: Build, tmp_path: Path
) -> None:
    """The golden check of the LoRA recipe: r 4 and alpha 32 on query and value."""
    folder = write(adapted(0.0, LoRAConfig(4, 32.0, 0.1)), tmp_path / "adapter")
    config, tensors = (
        json.loads((folder / CONFIG).read_text()),
        load_file(folder / FILE),
    )
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 64, 0.1)
    assert config["target_modules"] == ["attn.c_attn"] and config["fan_in_fan_out"]
    assert not config["rank_pattern"] and config["peft_type"] == "LORA"
    name = "base_model.model.transformer.h.1.attn.c_attn.lora_{}.weight"
    assert tensors[name.format("A")].shape == (8, 32)
    b = tensors[name.format("B")]
    assert b.shape == (96, 8)
    assert not b[:32, 4:].any() and not b[32:64].any() and not b[64:, :4].any()
    assert len(tensors) == 2 * 2


@pytest.mark.parametrize("targets", [("query", "value"), KERNELS], ids=",".join)
def test_an_adapter_comes_back_as_it_was(
    adapted: Build, base: Build, token_ids: np.ndarray, tmp_path: Path, targets: Any
) -> None:
    lora = LoRAConfig(4, 7.0, 0.1, targets)
    model = adapted(lora=lora)
    read = load_adapter(write(model, tmp_path / "adapter"))
    assert read.lora == lora
    for path, weight in model.named_adapters().items():
        np.testing.assert_array_equal(read.weights[path], weight)
    assert read.fingerprint == Adapter.of(model).fingerprint
    np.testing.assert_array_equal(adapt(base(), read)(token_ids), model(token_ids))


def test_a_foreign_adapter_gives_each_third_its_rows_and_the_same_first_matrix(
    adapted: Build, base: Build, token_ids: np.ndarray, tmp_path: Path
) -> None:
    model = adapted(lora=LoRAConfig(4, 32.0, targets=("query", "value", "output")))
    read = load_adapter(write(model, tmp_path / "adapter", about=False))
    assert read.lora == LoRAConfig(8, 64.0, 0.0, ("query", "key", "value", "output"))
    first = [read.weights[f"block_0/{name}/adapter_down"] for name in KERNELS[:3]]
    assert all(np.array_equal(first[0], other) for other in first)
    again = adapt(base(), read)
    error = np.abs(again(token_ids) - model(token_ids)).max()
    assert error < 1e-5 * np.abs(model(token_ids)).max()


def test_a_scale_over_the_root_of_the_rank_is_read(
    adapted: Build, tmp_path: Path
) -> None:
    model = adapted(0.0, LoRAConfig(4, 32.0))
    folder = write(model, tmp_path / "adapter", False, use_rslora=True, lora_alpha=16)
    lora = load_adapter(folder).lora
    assert (lora.rank, lora.scale) == (8, pytest.approx(16 / 8**0.5))


def test_an_adapter_that_was_trained_further_is_no_longer_in_blocks(
    adapted: Build, base: Build, tmp_path: Path
) -> None:
    model = adapted(0.0, LoRAConfig(4))
    folder = write(model, tmp_path / "adapter")
    tensors, metadata, _ = to_peft_files(Adapter.of(model), "base")
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor += 0.01
    save_file(tensors, folder / FILE, metadata)
    read = load_adapter(folder)
    assert read.lora.rank == 8 and "key" in read.lora.targets
    again, theirs = dict(products(adapt(base(0.0), read))), updates(folder)
    whole = np.concatenate([again[f"block_0/{k}/kernel"] for k in KERNELS[:3]], 1)
    np.testing.assert_allclose(whole, theirs["0/attn.c_attn"], rtol=1e-5, atol=1e-7)


def test_an_adapter_of_another_model_is_refused(
    adapted: Build, base: Build, tmp_path: Path
) -> None:
    from spdf_keras.model.build import functional_gpt

    read = load_adapter(write(adapted(0.0), tmp_path / "adapter"))
    sizes = dataclasses.replace(base(0.0).sizes, hidden_dim=64)
    with pytest.raises(
        InputError, match="The adapter in '.*' does not fit the model: "
    ):
        adapt(functional_gpt(sizes), read)
    shallow = dataclasses.replace(base(0.0).sizes, num_layers=1)
    with pytest.raises(
        InputError, match="'block_1/query/adapter_down' is .* unknown in"
    ):
        adapt(functional_gpt(shallow), read)


REFUSED: dict[str, tuple[Any, str]] = {
    "peft_type": ("IA3", "`peft_type` of .* must be LORA. Received: 'IA3'"),
    "use_dora": (True, "`use_dora` of .* must be false, as adapters here have nothing"),
    "bias": ("all", '`bias` of .* must be "none"'),
    "modules_to_save": (["wte"], "`modules_to_save` of .* must be null"),
    "init_lora_weights": ("pissa", "must leave the base as it is. Received: 'pissa'"),
    "r": (16, "`r` of .* must be the rank of the tensors. Received: 16 for"),
    "rank_pattern": ({"(a+)+$": 8}, "`rank_pattern` must name modules, such as"),
    "alpha_pattern": ([1], "`alpha_pattern` must be an object"),
    "lora_alpha": ("much", "`lora_alpha` must be float"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_are_not_to_be_had_here_are_named(
    adapted: Build, tmp_path: Path, name: str
) -> None:
    value, sentence = REFUSED[name]
    folder = write(adapted(0.0), tmp_path / "adapter", **{name: value})
    with pytest.raises(InputError, match=sentence):
        load_adapter(folder)


def test_files_that_are_missing_damaged_or_pickles_are_refused(
    adapted: Build, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="No adapter in .* there is no adapter_config"):
        load_adapter(tmp_path)
    folder = write(adapted(0.0), tmp_path / "adapter")
    tensors = load_file(folder / FILE)
    name = next(iter(tensors))
    save_file({**tensors, "h.0.lora_embedding_A": tensors[name]}, folder / FILE)
    with pytest.raises(InputError, match="Received: the tensor 'h.0.lora_embedding_A'"):
        load_adapter(folder)
    save_file({name: tensors[name]}, folder / FILE)
    with pytest.raises(InputError, match=r"must have lora_A \(rank, in\) and lora_B"):
        load_adapter(folder)
    save_file({**tensors, name: tensors[name] * np.float32(np.nan)}, folder / FILE)
    with pytest.raises(InputError, match="must be finite. Received: 'base_model"):
        load_adapter(folder)
    (folder / FILE).write_bytes(pickle.dumps(tensors))
    with pytest.raises(InputError, match="is no complete safetensors file"):
        load_adapter(folder)
    (folder / FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match="is a pickle, which may run code when it is"):
        load_adapter(folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        load_adapter(folder)
