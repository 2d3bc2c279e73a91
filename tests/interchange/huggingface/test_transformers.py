"""Checkpoints of transformers here, and checkpoints from here in transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import spdf_keras
from spdf_keras import GPT
from spdf_keras.config import DecodeConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.export import to_huggingface
from spdf_keras.interchange.convert import convert
from spdf_keras.interchange.huggingface.generation import to_fields
from spdf_keras.interchange.huggingface.masks import read_masks
from spdf_keras.interchange.huggingface.tokenizer import read_tokenizer
from spdf_keras.training.run import Run

Call = Callable[..., Any]

CONFIG = {
    "vocab_size": 300,
    "n_positions": 48,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.2,
}
# Sums of float32 in another order; the two forms of GELU differ by 1e-3 and more.
CLOSE = 1e-4
RECIPE: dict[str, Any] = {
    "num_beams": 10,
    "length_penalty": 0.8,
    "no_repeat_ngram_size": 4,
}


def relative(received: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(received - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def theirs(transformers: Call, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Makes a checkpoint with transformers, once for each activation and shard."""
    made: dict[Any, Path] = {}

    def make(activation: str, shard: str = "50GB") -> Path:
        key = activation, shard
        if key not in made:
            made[key] = tmp_path_factory.mktemp("theirs") / f"{activation}_{shard}"
            config = {**CONFIG, "activation_function": activation}
            transformers("make", made[key], config, shard)
        return made[key]

    return make


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_logits_of_a_checkpoint_of_transformers_are_equal(
    theirs: Call, peer_logits: Call, token_ids: np.ndarray, activation: str
) -> None:
    folder = theirs(activation)
    expected = peer_logits(folder, token_ids)
    model = spdf_keras.from_huggingface(folder)
    assert model.sizes.activation == activation
    assert relative(model(token_ids).numpy(), expected) < CLOSE


@pytest.mark.parametrize(
    ("activation", "wrong"), [("gelu_new", "gelu"), ("gelu", "gelu_new")]
)
def test_logits_with_the_other_activation_are_not_equal(
    theirs: Call,
    peer_logits: Call,
    token_ids: np.ndarray,
    tmp_path: Path,
    activation: str,
    wrong: str,
) -> None:
    folder = theirs(activation)
    for file in folder.iterdir():
        text = file.read_bytes()
        if file.name == "config.json":
            text = text.replace(f'"{activation}"'.encode(), f'"{wrong}"'.encode())
        (tmp_path / file.name).write_bytes(text)
    model = spdf_keras.from_huggingface(tmp_path)
    assert model.sizes.activation == wrong
    error = relative(model(token_ids).numpy(), peer_logits(folder, token_ids))
    assert error > 3 * CLOSE


def test_a_sharded_checkpoint_has_the_weights_of_a_single_file(theirs: Call) -> None:
    one, many = theirs("gelu_new"), theirs("gelu_new", "20KB")
    assert len(list(many.glob("*.safetensors"))) > 2
    a, b = (spdf_keras.from_huggingface(folder) for folder in (one, many))
    for path, weight in a.named_weights().items():
        np.testing.assert_array_equal(weight, b.named_weights()[path])


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_a_checkpoint_goes_in_and_out_with_every_byte(
    theirs: Call, tokenizer: Tokenizer, tmp_path: Path, activation: str
) -> None:
    convert(f"hf:{theirs(activation)}", tmp_path / "run", tokenizer=tokenizer)
    to_huggingface(tmp_path / "run", tmp_path / "out")
    before, after = (
        load_file(folder / "model.safetensors")
        for folder in (theirs(activation), tmp_path / "out")
    )
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.tobytes() == after[name].tobytes(), name
        assert tensor.shape == after[name].shape


@pytest.mark.parametrize("ngrams", [None, 0, 4], ids=["greedy", "10 beams", "recipe"])
def test_transformers_says_the_tokens_of_a_checkpoint(
    theirs: Call, transformers: Call, ngrams: int | None
) -> None:
    random = np.random.default_rng(1)
    prompts = [random.choice(300, size=n, replace=False).tolist() for n in (1, 3, 8, 5)]
    folder = theirs("gelu_new")
    settings: dict[str, Any] = {}
    fields: dict[str, Any] = {"do_sample": False, "max_new_tokens": 24}
    if ngrams is not None:
        settings = {**RECIPE, "no_repeat_ngram_size": ngrams}
        fields |= to_fields(DecodeConfig(max_new_tokens=24, **settings), [])
        # transformers counts the n-grams of the prompt too, other than the recipe; the
        # program bans those of the continuation, and nothing else differs.
        fields["no_repeat_ngram_size"] = 0
    ours = spdf_keras.from_huggingface(folder).generate(prompts, 24, **settings)
    found = transformers("generate", folder, prompts, fields, str(ngrams or 0))
    assert ours == found
    assert len({tuple(line) for line in ours}) == len(prompts)


def test_an_exported_sparse_model_is_the_same_in_transformers(
    sparse_model: GPT,
    exported: Path,
    transformers: Call,
    peer_logits: Call,
    token_ids: np.ndarray,
) -> None:
    expected = sparse_model(token_ids).numpy()
    assert relative(peer_logits(exported, token_ids), expected) < CLOSE
    masks = sparse_model.named_masks()
    counted = transformers("zeros", exported)
    assert len(counted) == 2
    for name, thirds in counted.items():
        block = f"block_{name.split('.')[2]}"
        for third, kernel in zip(thirds, ("query", "key", "value"), strict=True):
            mask = masks[f"{block}/{kernel}/kernel"].numpy()
            assert third == mask.size - mask.sum() == round(0.75 * mask.size)


def test_what_transformers_saves_again_keeps_its_masks(
    sparse_model: GPT, exported: Path
) -> None:
    loaded = spdf_keras.from_huggingface(exported)
    assert loaded.sparsity == 0.75
    for path, mask in sparse_model.named_masks().items():
        np.testing.assert_array_equal(mask, loaded.named_masks()[path])
    for path, weight in sparse_model.named_weights().items():
        np.testing.assert_array_equal(weight, loaded.named_weights()[path])
    assert read_masks(exported, loaded.sizes)[0] == sparse_model.mask_settings


def test_transformers_reads_the_tokenizer_of_an_export(
    exported: Path, tokenizer: Tokenizer, transformers: Call
) -> None:
    texts = ["low lower!", " two  spaces\n\n", "東京 naïve", "", "a\u00a0b"]
    ids, texts_again = transformers("encode", exported, texts)
    assert ids == tokenizer.encode_batch(texts)
    assert texts_again == texts
    # The one text that differs: it is the token there, and characters here.
    (special,), _ = transformers("encode", exported, ["<|endoftext|>"])
    assert special == [tokenizer.end_token_id]
    assert len(tokenizer.encode("<|endoftext|>")) > 1
    assert read_tokenizer(exported).fingerprint == tokenizer.fingerprint


def test_transformers_decodes_as_the_run_does(
    theirs: Call, transformers: Call, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    convert(f"hf:{theirs('gelu')}", run, tokenizer=tokenizer)
    text = (run / "config.toml").read_text()
    decode = DecodeConfig(max_new_tokens=7, **RECIPE)
    for name, value in (("max_new_tokens", 7), *RECIPE.items()):
        default = getattr(DecodeConfig(), name)
        text = text.replace(f"\n{name} = {default}\n", f"\n{name} = {value}\n")
    (run / "config.toml").write_text(text)
    assert Run.open(run).config().decode == decode
    to_huggingface(run, tmp_path / "out")
    settings = transformers("settings", tmp_path / "out")
    assert settings["num_beams"] == 10 and settings["length_penalty"] == 0.8
    assert settings["no_repeat_ngram_size"] == 4 and settings["max_new_tokens"] == 7
    convert(f"hf:{tmp_path / 'out'}", tmp_path / "again")
    assert Run.open(tmp_path / "again").config().decode == decode
