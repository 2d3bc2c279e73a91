"""Each option of `spdf-keras export` is honoured by a format, or refused."""

import argparse
import inspect
from pathlib import Path
from typing import Any

import pytest

from spdf_keras import export
from spdf_keras.cli import in_options, main
from spdf_keras.commands.export_options import (
    OPTIONS,
    Option,
    add_options,
    given_options,
)
from spdf_keras.errors import InputError

EXPORTERS: dict[str, Any] = {
    "saved_model": export.to_saved_model,
    "tflite": export.to_tflite,
    "litertlm": export.to_litertlm,
    "xla": export.to_xla,
    "peft": export.to_peft,
    "huggingface": export.to_huggingface,
    "keras_nlp": export.to_keras_nlp_preset,
}
# Arguments that every format takes, and those of the library alone.
COMMON = {"model", "path", "overwrite", "sparsity"}
OF_THE_LIBRARY = {"end_token_ids", "beam_search", "tokenizer", "separator"}
CELLS = [
    pytest.param(option, name, id=f"{option.flag} {name}")
    for option in OPTIONS
    for name in EXPORTERS
]


def words(option: Option) -> list[str]:
    """The option with a value, and the option that it needs."""
    argument = option.argument
    value = argument.get("choices", ["1"])[-1]
    values = [] if "store" in argument.get("action", "") else [value]
    return [option.flag, *values, *([option.needs] if option.needs else [])]


def given(name: str, *arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_options(parser)
    args = parser.parse_args(arguments)
    args.format = name
    return given_options(args)


@pytest.mark.parametrize(("option", "name"), CELLS)
def test_an_option_reaches_its_exporter_or_is_refused_in_one_sentence(
    option: Option,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if name in option.formats:
        options = given(name, *words(option))
        assert option.keyword in options
        assert options.keys() <= inspect.signature(EXPORTERS[name]).parameters.keys()
        return
    command = ["export", "gpt_nano", "--format", name, "--out", "out", *words(option)]
    if option.needs:
        command.pop()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"`{option.flag}` is for " in error and f"--format {name}, which" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_argument_of_an_exporter_is_an_option(name: str) -> None:
    arguments = inspect.signature(EXPORTERS[name]).parameters.keys()
    options = {option.keyword for option in OPTIONS if name in option.formats}
    assert arguments - COMMON - OF_THE_LIBRARY == options
    for option in OPTIONS:
        assert (name in option.formats) != (name in option.because), option.flag


def test_an_option_that_is_not_given_leaves_the_exporters_default() -> None:
    assert given("xla") == given("tflite") == {}
    assert given("xla", "--no-check", "--batch-size", "1") == {
        "check": False,
        "batch_size": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--unpack load", "`--unpack` needs `--sparse`, without which"),
        ("--unpack step --signature decode", "`--unpack` needs `--sparse`"),
        ("--prompt-length 8 --signature forward", "for the signature prefill. Rec"),
        ("--prompt-length 8 --signature decode", "Received: decode, which it does"),
        ("--cache-length 8 --signature forward", "the signature prefill or decode"),
        ("--sequence-length 8 --signature decode", "signature forward or train_step"),
    ],
)
def test_an_option_without_effect_is_refused(arguments: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        given("xla", *arguments.split())


def test_an_option_with_effect_on_one_signature_is_taken() -> None:
    arguments = "--cache-length 8 --signature forward --signature prefill"
    assert given("xla", *arguments.split())["cache_length"] == 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("export gpt_nano --format tflite --out m", "replace it with --overwrite."),
        ("export gpt_nano --format tflite --out .", "`--out` must name a file. Rec"),
        ("export gpt_nano --format tflite --out new/", "which ends as a folder does"),
        ("export gpt_nano --format xla --out m", "`--out` must name a folder. Rec"),
        ("export gpt_pico --format xla --out n", "`RUN` must be the folder of a run"),
        (
            "export gpt_nano --format tflite --cache-length 999999 --out n",
            "`--cache-length` must be in [1, 256], the context. Received: "
            "--cache-length 999999.",
        ),
        (
            "export gpt_nano --format xla --signature x --out n",
            "`--signature` must be of forward",
        ),
        (
            "export gpt_nano --format xla --precision x --out n",
            "`--precision` must be of",
        ),
        (
            "export gpt_nano --format tflite --sparsity 1 --out n",
            "`--sparsity` must be in [0, 1). Received: --sparsity 1.0",
        ),
        ("benchmark m --rounds 0", "`--rounds` must be positive. Received: --rounds 0"),
        ("benchmark m --new-tokens 1", "`--new-tokens` must be at least 2."),
        (
            "prepare m --out n --vocabulary-size 300 --context-length 0",
            "`--context-length` must be positive. Received: --context-length 0.",
        ),
        ("quickstart --out n --sparsity 1", "`--sparsity` must be in [0, 1)."),
    ],
)
def test_the_command_line_names_options_and_no_keywords(
    arguments: str,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m").write_text("earlier")
    Path("c.toml").write_text('[model]\npreset = "gpt_nano"\n')
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.toml", "m"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Set `train.rounds=3`.", "Set `train.rounds=3`."),
        ("Take --rounds=3, or rounds='a b'.", "Take --rounds=3, or --rounds a b."),
        ("`rounds`=3 needs `other`.", "`--rounds` 3 needs `other`."),
        ("Received: rounds=True, other=True.", "Received: --rounds, other=True."),
        ("`path` of it", "`--out` of it"),
    ],
)
def test_keywords_become_options_where_the_command_has_them(
    message: str, expected: str
) -> None:
    assert in_options(message, "  --rounds N  rounds", {"path": "--out"}) == expected
