"""Presets of KerasNLP: the files, what KerasNLP loads of them, and refusals."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.cli import main
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import ExportError, InputError
from spdf_keras.export import to_keras_nlp_preset
from spdf_keras.export.keras_nlp import exporter
from spdf_keras.training.run import Run

# KerasNLP's own loading of weights reads attributes that are deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`(Model.state_|layer.)updates` will be removed:UserWarning"
)

FILES = {
    *("config.json", "tokenizer.json", "preprocessor.json", "metadata.json"),
    *("model.weights.h5", "assets", "card.json"),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A tokenizer whose last token ends texts, as that of GPT-2."""
    trained = Tokenizer.train(["low lower lowest newer"], 300)
    size, end = trained.vocabulary_size, trained.end_token_id
    vocabulary = {t: (i - end - 1) % size for t, i in trained.vocabulary.items()}
    return Tokenizer(vocabulary, trained.merges)


@pytest.fixture(scope="module")
def preset(
    model: GPT, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("preset") / "gpt"
    card = to_keras_nlp_preset(model, folder, tokenizer=tokenizer)
    assert card.relative_error is not None and card.relative_error < 1e-5
    assert card.sparsity == 0.75 and card.format == "keras_nlp"
    return folder


def test_kerasnlp_loads_the_folder_and_generates_from_it(
    preset: Path, model: GPT, tokenizer: Tokenizer
) -> None:
    import keras_nlp

    assert {path.name for path in preset.iterdir()} == FILES
    assert "vocab" not in (preset / "tokenizer.json").read_text()
    loaded = keras_nlp.models.GPT2CausalLM.from_preset(str(preset))
    assert loaded.preprocessor.sequence_length == 64
    assert loaded.backbone.dropout == 0
    token_ids = np.random.default_rng(2).integers(512, size=(2, 20)).astype(np.int32)
    inputs = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}
    expected = model(token_ids).numpy()
    error = np.abs(loaded(inputs).numpy() - expected).max()
    assert error < 1e-5 * np.abs(expected).max()
    loaded.compile(sampler="greedy")
    end, text = tokenizer.end_token_id, "low lower"
    prompt = [end, *tokenizer.encode(text)]
    (new,) = model.generate([prompt], 6, end_token_ids=end)
    # The model has more rows than the tokenizer has tokens, which KerasNLP's decoder
    # takes for nothing, as ours does.
    generated = loaded.generate(text, max_length=len(prompt) + 6)
    assert generated == text + tokenizer.decode(new)


def test_a_preset_is_converted_to_a_run(
    preset: Path, model: GPT, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main(["convert", f"keras_nlp:{preset}", "--out", str(run)]) == 0
    opened = Run.open(run)
    assert opened.tokenizer().fingerprint == tokenizer.fingerprint
    assert list(opened.origin()["source"]["weights"]) == ["model.weights.h5"]
    weights, masks = opened.load_model().named_weights(), model.named_masks()
    for path, weight in model.named_weights().items():
        value = weight.numpy()
        value = value * masks[path].numpy() if path in masks else value
        np.testing.assert_array_equal(weights[path], value)
    assert (
        main(
            [
                "export",
                str(run),
                "--format",
                "keras_nlp",
                "--out",
                str(tmp_path / "again"),
            ]
        )
        == 0
    )


def test_an_export_without_tokenizer_takes_token_ids(
    sizes: GPTConfig, tmp_path: Path
) -> None:
    import keras_nlp

    card = to_keras_nlp_preset(build_gpt(sizes), tmp_path / "gpt")
    assert any("no tokenizer" in note for note in card.notes)
    folder = str(tmp_path / "gpt")
    keras_nlp.models.GPT2CausalLM.from_preset(folder, preprocessor=None)


def test_only_an_export_of_ours_is_replaced(preset: Path, sizes: GPTConfig) -> None:
    model = build_gpt(sizes)
    with pytest.raises(InputError, match="must be new"):
        to_keras_nlp_preset(model, preset)
    card = (preset / "card.json").read_text()
    (preset / "card.json").unlink()
    with pytest.raises(InputError, match="only replaced if it holds 'card.json'"):
        to_keras_nlp_preset(model, preset, overwrite=True)
    (preset / "card.json").write_text(card)
    (preset / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="with 'notes.txt'. Move that away"):
        to_keras_nlp_preset(model, preset, overwrite=True)
    (preset / "notes.txt").unlink()
    to_keras_nlp_preset(model, preset, overwrite=True)
    config = json.loads((preset / "config.json").read_text())
    assert config["config"]["num_layers"] == sizes.num_layers
    assert not (preset / "assets").exists()


def test_a_model_that_kerasnlp_cannot_compute_is_refused(
    sizes: GPTConfig, tmp_path: Path
) -> None:
    exact = build_gpt(dataclasses.replace(sizes, activation="gelu"))
    with pytest.raises(InputError, match="`activation` must be gelu_new for KerasNLP"):
        to_keras_nlp_preset(exact, tmp_path / "gpt")
    assert not (tmp_path / "gpt").exists()


def test_a_preset_with_other_logits_is_not_delivered(
    sizes: GPTConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = exporter.to_keras_nlp

    def wrong(*arguments: Any) -> Any:
        made = make(*arguments)
        made.backbone.layer_norm.gamma.assign_add([0.1] * 16)
        return made

    monkeypatch.setattr(exporter, "to_keras_nlp", wrong)
    with pytest.raises(ExportError, match="logits differ from the Keras model's"):
        to_keras_nlp_preset(build_gpt(sizes), tmp_path / "gpt")
    assert not (tmp_path / "gpt").exists()
