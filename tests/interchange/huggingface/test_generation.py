"""Settings of decoding go there and back."""

import json
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.config import DecodeConfig
from spdf_keras.errors import InputError
from spdf_keras.interchange.huggingface.generation import read_decoding, to_fields

CASES = [
    DecodeConfig(),
    DecodeConfig(num_beams=10, length_penalty=0.8, no_repeat_ngram_size=4),
    DecodeConfig(sample=True, temperature=0.7, top_k=40, top_p=0.9, max_new_tokens=9),
    DecodeConfig(repetition_penalty=1.2),
]


def read(folder: Path, fields: dict[str, Any]) -> tuple[DecodeConfig, list[str]]:
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return read_decoding(folder)


@pytest.mark.parametrize("decode", CASES)
def test_settings_come_back(decode: DecodeConfig, tmp_path: Path) -> None:
    fields = to_fields(decode, [5, 7])
    assert fields["eos_token_id"] == [5, 7] and fields["pad_token_id"] == 5
    assert read(tmp_path, fields) == (decode, [])


def test_only_settings_that_are_read_are_written() -> None:
    greedy, beams, draws = (to_fields(decode, [5]) for decode in CASES[:3])
    assert greedy["eos_token_id"] == 5
    assert not {"length_penalty", "temperature", "top_k", "top_p"} & greedy.keys()
    assert beams["early_stopping"] == "never" and "top_p" not in beams
    assert beams["renormalize_logits"] is True
    assert draws["top_k"] == 40 and "length_penalty" not in draws
    assert "eos_token_id" not in to_fields(CASES[0], [])


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    assert read_decoding(tmp_path) == (DecodeConfig(), [])


def test_a_setting_without_effect_here_is_named(tmp_path: Path) -> None:
    fields = {
        "_from_model_config": True,
        "transformers_version": "5.24.0",
        "eos_token_id": 50256,
        "max_length": 20,
        "num_beams": 3,
        "top_p": 0.5,
        "min_p": 0.1,
        "typical_p": 1.0,
        "bad_words_ids": [[3]],
        "suppress_tokens": None,
    }
    decode, notes = read(tmp_path, fields)
    assert decode == DecodeConfig(num_beams=3)  # nothing is drawn, so no `top_p`
    assert len(notes) == 2
    assert "`min_p` of " in notes[0] and "`bad_words_ids` of " in notes[1]


def test_settings_that_cannot_hold_together_are_left_out_with_the_reason(
    tmp_path: Path,
) -> None:
    decode, notes = read(tmp_path, {"do_sample": True, "num_beams": 4})
    assert decode == DecodeConfig()
    assert len(notes) == 1 and "`num_beams` must be 1 where `sample`" in notes[0]


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("[1]")
    with pytest.raises(InputError, match="must hold a JSON object"):
        read_decoding(tmp_path)
