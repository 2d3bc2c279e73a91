"""`run_tflite.py --prompt` puts a text as the run's own training did."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.config import DecodeConfig, config_from_tables
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.evaluation.texts import generate_texts
from spdf_keras.export import to_tflite
from spdf_keras.export.runners.run_tflite import _encode, main
from spdf_keras.training.checkpoint import save_checkpoint
from spdf_keras.training.run import Run

PROMPTS = ("low", "slower low", "est")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["low lower lowest "], 280)


def run_of(kind: str, folder: Path, tokenizer: Tokenizer) -> tuple[Run, GPT]:
    vocabulary = tokenizer.vocabulary_size
    sizes = GPTConfig(1, 2, 32, vocabulary_size=vocabulary, max_sequence_length=48)
    config = config_from_tables({"model": vars(sizes)})
    run = Run.create(folder, config, tokenizer, {"kind": kind})
    model = build_gpt(config.model, train=config.train)
    random = np.random.default_rng(0)  # so that texts are not the prompt's last token
    for weight in model.trainable_variables:
        weight.assign_add(random.normal(0, 0.3, weight.shape).astype(np.float32))
    save_checkpoint(model, run.checkpoint_folder, 1)
    return run, model


def told(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_a_prompt_gets_the_text_that_generate_gives(
    kind: str, tmp_path: Path, tokenizer: Tokenizer, capsys: Any
) -> None:
    run, model = run_of(kind, tmp_path / "run", tokenizer)
    card = to_tflite(run, tmp_path / "m.tflite", prompt_length=24)
    separator = kind == "finetune"
    assert card.separator is separator
    expected = generate_texts(
        model, tokenizer, PROMPTS, DecodeConfig(max_new_tokens=12), separator=separator
    )
    assert any(expected)
    options = [card.path, "--tokenizer", run.folder / "tokenizer"]
    options += ["--max-new-tokens", 12]
    for prompt, text in zip(PROMPTS, expected, strict=True):
        result = told(capsys, *options, "--prompt", prompt)
        assert result["text"].strip() == text
        end = [tokenizer.end_token_id] if separator else []
        assert result["token_ids"] == [*tokenizer.encode(prompt), *end]
    # An option comes before the card, and a card of an earlier version has no word.
    other = told(capsys, *options, "--prompt", "low", "--separator")
    assert other["token_ids"][-1] == tokenizer.end_token_id
    other = told(capsys, *options, "--prompt", "low", "--no-separator")
    assert other["token_ids"] == tokenizer.encode("low")
    file = Path(f"{card.path}.card.json")
    earlier = json.loads(file.read_text())
    del earlier["separator"]
    file.write_text(json.dumps(earlier))
    assert told(capsys, *options, "--prompt", "low")["token_ids"] == (
        tokenizer.encode("low")
    )
    file.unlink()
    result = told(capsys, *options, "--prompt", "low")
    assert result["token_ids"] == tokenizer.encode("low")


class Letters:
    """A tokenizer in which an empty line is one token."""

    end_token_id = 9

    def encode(self, text: str) -> list[int]:
        return [5] if text == "\n\n" else [len(text)]


def test_an_empty_line_ends_a_text_also_where_it_is_one_token() -> None:
    assert _encode(Letters(), "abc", True) == ([3, 9], [9, 5])
    assert _encode(Letters(), "abc", False) == ([3], [9])


def test_a_model_in_memory_says_by_an_argument_how_it_was_trained(
    small_model: GPT, tmp_path: Path
) -> None:
    path = tmp_path / "m.tflite"
    assert to_tflite(small_model, path, prompt_length=4).separator is None
    card = to_tflite(small_model, path, prompt_length=4, overwrite=True, separator=True)
    assert card.separator is True
    assert json.loads(Path(f"{path}.card.json").read_text())["separator"] is True
