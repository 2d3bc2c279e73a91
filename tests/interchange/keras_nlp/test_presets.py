"""Presets of KerasNLP that are refused, with what differs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.export import to_keras_nlp_preset
from spdf_keras.interchange.convert import open_source


@pytest.fixture(scope="module")
def preset(
    small: GPTConfig, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("presets") / "gpt"
    to_keras_nlp_preset(build_gpt(small), folder, tokenizer=tokenizer)
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda d: d.update(class_name="BertBackbone"),
            "must be GPT2Backbone. Receive",
        ),
        (lambda d: d.pop("config"), "must be GPT2Backbone"),
        (
            lambda d: d["config"].pop("num_heads"),
            "`num_heads` must be int. Received: N",
        ),
        (lambda d: d["config"].update(num_layers=0), "`num_layers` must be positive"),
        (lambda d: d["config"].update(num_layers=1), "must have the .* weights of the"),
        (
            lambda d: d["config"].update(hidden_dim=64),
            "must have the .* weights of the",
        ),
        (
            lambda d: d["config"].update(vocabulary_size=298, max_sequence_length=50),
            "cannot be used: ",
        ),
        (lambda d: d["config"].update(dropout="x"), "`dropout` must be float"),
    ],
)
def test_a_preset_that_is_no_gpt_2_is_refused(
    preset: Path, change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    file = preset / "config.json"
    text = file.read_text()
    content = json.loads(text)
    change(content)
    file.write_text(json.dumps(content))
    try:
        with pytest.raises(InputError, match=sentence) as caught:
            open_source(f"keras_nlp:{preset}")
        assert "\n" not in str(caught.value)
    finally:
        file.write_text(text)


def test_no_class_that_a_preset_names_is_imported(preset: Path) -> None:
    file = preset / "config.json"
    text = file.read_text()
    file.write_text(text.replace("keras_nlp.src.models", "no_module_of_this_name"))
    try:
        assert open_source(f"keras_nlp:{preset}").sizes.num_layers == 2
    finally:
        file.write_text(text)


def test_cut_weights_are_refused(preset: Path, tmp_path: Path) -> None:
    shutil.copy(preset / "config.json", tmp_path)
    content = (preset / "model.weights.h5").read_bytes()
    for cut in (0, 1000, len(content) - 100):
        (tmp_path / "model.weights.h5").write_bytes(content[:cut])
        with pytest.raises(InputError, match="cannot be used"):
            open_source(f"keras_nlp:{tmp_path}")
