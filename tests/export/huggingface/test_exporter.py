"""Checkpoints in Hugging Face's layout: the files, their content, and refusals."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import spdf_keras
from spdf_keras import GPT, GPTConfig, build_gpt, strip
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import ExportError, InputError
from spdf_keras.export import to_huggingface
from spdf_keras.export.huggingface import exporter

FILES = {
    *("config.json", "generation_config.json", "model.safetensors", "README.md"),
    *("masks.safetensors", "vocab.json", "merges.txt", "tokenizer.json", "card.json"),
    *("tokenizer_config.json", "special_tokens_map.json"),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["low lower lowest newer"], 300)


@pytest.fixture(scope="module")
def folder(
    model: GPT, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("huggingface") / "gpt"
    card = to_huggingface(model, out, tokenizer=tokenizer)
    assert card.format == "huggingface" and card.sparsity == 0.75
    assert card.max_abs_error is None and "not run" in card.row()
    assert not any(runtime.skips_zeros for runtime in card.runtimes)
    # 4 bytes a weight, a bit per mask, the tokenizer and the texts.
    assert (
        card.size_bytes
        == sum(f.stat().st_size for f in out.iterdir())
        - (out / "card.json").stat().st_size
    )
    return out


def read(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    return content


def test_the_folder_has_the_names_and_shapes_of_gpt_2(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    tensors = load_file(folder / "model.safetensors")
    assert len(tensors) == 2 + 12 * 2 + 2
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert shapes["transformer.wte.weight"] == (512, 64)
    assert shapes["transformer.wpe.weight"] == (64, 64)
    assert shapes["transformer.h.1.attn.c_attn.weight"] == (64, 192)
    assert shapes["transformer.h.1.attn.c_attn.bias"] == (192,)
    assert shapes["transformer.h.0.attn.c_proj.weight"] == (64, 64)
    assert shapes["transformer.h.0.mlp.c_fc.weight"] == (64, 256)
    assert shapes["transformer.h.0.mlp.c_proj.weight"] == (256, 64)
    assert shapes["transformer.ln_f.bias"] == (64,)
    with safe_open(folder / "model.safetensors", "np") as reader:
        assert reader.metadata() == {"format": "pt"}


def test_query_key_and_value_lie_side_by_side_with_zeros_in_place(
    folder: Path, model: GPT
) -> None:
    joined = load_file(folder / "model.safetensors")[
        "transformer.h.1.attn.c_attn.weight"
    ]
    for index, name in enumerate(("query", "key", "value")):
        path = f"block_1/{name}/kernel"
        mask = model.named_masks()[path].numpy()
        part = joined[:, 64 * index : 64 * (index + 1)]
        kept = model.named_weights()[path].numpy()[mask]
        np.testing.assert_array_equal(part[mask], kept)
        zeros = part[~mask]
        assert not zeros.any() and not np.signbit(zeros).any()


def test_the_config_is_what_gpt_2_loaders_read(folder: Path) -> None:
    config = read(folder, "config.json")
    assert config["model_type"] == "gpt2"
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert config["n_ctx"] == config["n_positions"] == 64
    assert config["n_inner"] is None and config["activation_function"] == "gelu_new"
    assert config["resid_pdrop"] == config["attn_pdrop"] == config["embd_pdrop"] == 0
    assert config["tie_word_embeddings"] is True
    settings = read(folder, "tokenizer_config.json")
    assert settings["tokenizer_class"] == "GPT2Tokenizer"
    assert settings["model_max_length"] == 64
    assert (folder / "merges.txt").read_text("utf-8").startswith("#version")


def test_the_model_card_says_what_the_model_is(folder: Path) -> None:
    text = (folder / "README.md").read_text("utf-8")
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert "library_name: transformers" in head
    assert "pipeline_tag: text-generation" in head and "- sparse" in head
    assert "(75.00%)" in body and "zeros included" in body
    assert "`masks.safetensors` has the masks" in body


def test_other_sizes_go_there_and_back(tmp_path: Path) -> None:
    sizes = GPTConfig(1, 2, 16, 24, 64, 16, 1e-6, "gelu")
    model = build_gpt(sizes)
    card = to_huggingface(model, tmp_path / "out")
    assert any("no tokenizer" in note for note in card.notes)
    config = read(tmp_path / "out", "config.json")
    assert config["n_inner"] == 24 and config["activation_function"] == "gelu"
    assert config["eos_token_id"] is None
    loaded = spdf_keras.from_huggingface(tmp_path / "out")
    assert loaded.sizes == sizes
    ids = np.arange(12)[None]
    np.testing.assert_array_equal(model(ids), loaded(ids))


def test_a_stripped_model_has_zeros_and_no_masks(model: GPT, tmp_path: Path) -> None:
    card = to_huggingface(strip(model), tmp_path / "out")
    assert card.sparsity == 0.75
    assert not (tmp_path / "out" / "masks.safetensors").exists()
    assert not spdf_keras.from_huggingface(tmp_path / "out").named_masks()


def test_a_preset_and_a_model_of_it_make_the_same_files(tmp_path: Path) -> None:
    to_huggingface("gpt_nano", tmp_path / "a", sparsity=0.5)
    to_huggingface(build_gpt("gpt_nano", 0.5), tmp_path / "b")
    for name in ("model.safetensors", "masks.safetensors", "config.json"):
        a, b = (tmp_path / folder / name for folder in "ab")
        assert a.read_bytes() == b.read_bytes()


def test_a_model_that_has_diverged_is_refused(sizes: GPTConfig, tmp_path: Path) -> None:
    model = build_gpt(sizes)
    model.named_weights()["block_0/query/bias"].assign([np.nan] * 16)
    with pytest.raises(InputError, match="'block_0/query/bias' has NaN or infinity"):
        to_huggingface(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_does_not_fit_is_refused(
    sizes: GPTConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="`tokenizer` must fit the model's 64 tokens"):
        to_huggingface(build_gpt(sizes), tmp_path / "out", tokenizer=tokenizer)


def test_a_downloaded_checkpoint_is_not_replaced(
    sizes: GPTConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    model = build_gpt(sizes)
    to_huggingface(model, out)
    with pytest.raises(InputError, match="must be new"):
        to_huggingface(model, out)
    exact = dataclasses.replace(sizes, activation="gelu")
    to_huggingface(build_gpt(exact), out, overwrite=True)
    assert read(out, "config.json")["activation_function"] == "gelu"
    (out / "card.json").unlink()
    with pytest.raises(InputError, match="only replaced if it holds 'card.json'"):
        to_huggingface(model, out, overwrite=True)


def test_a_folder_that_reads_back_otherwise_is_not_delivered(
    sizes: GPTConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exporter._write_weights

    def wrong(source: Any, file: Path) -> Any:
        written = write(source, file)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        return written

    monkeypatch.setattr(exporter, "_write_weights", wrong)
    with pytest.raises(ExportError, match="'final_norm/beta' is not the model's when"):
        to_huggingface(build_gpt(sizes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
