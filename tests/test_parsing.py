"""JSON and TOML that Python cannot hold: the right value, or a plain sentence."""

import json
from pathlib import Path

import pytest

from spdf_keras.data.corpus.documents import read_documents
from spdf_keras.data.corpus.pieces import json_text_pieces
from spdf_keras.data.tasks.webnlg import read_webnlg
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.parsing import load_json, load_toml

DIGITS = "7" * 4_400  # Python's limit is 4,300
ENTRY = {
    "category": "Food",
    "modifiedtripleset": [{"subject": "a", "property": "b", "object": "c"}],
    "lexicalisations": [{"comment": "good", "lex": "A text.", "xml_id": "Id1"}],
}


def test_json_is_what_pythons_own_reader_says_up_to_its_limit() -> None:
    text = '{"a": [1, -2, 1e3, "3"], "b": {"c": null, "d": 12345678901234567890}}'
    assert load_json(text) == json.loads(text)
    found = load_json(f'[1, {DIGITS}, -{DIGITS}, "{DIGITS}", {"9" * 4_300}]')
    assert found[0] == 1 and found[1:4] == [float("inf"), -float("inf"), DIGITS]
    assert type(found[0]) is int and found[4] == int("9" * 4_300)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "[1,]", ""])
def test_broken_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        load_json(text)


def test_toml_says_what_is_wrong() -> None:
    assert load_toml("[a]\nb = 1e6") == {"a": {"b": 1e6}}
    with pytest.raises(ValueError, match=r"it has a number of more than 4,300 digits"):
        load_toml(f"a = {DIGITS}")


@pytest.mark.parametrize("length", [10, 5_000_000])
def test_a_documents_number_may_have_any_digits(tmp_path: Path, length: int) -> None:
    words = "word " * (length // 5)
    file = tmp_path / "a.jsonl"
    lines = [f'{{"id": {DIGITS}, "text": "{words}"}}', '{"text": "b", "id": 1}']
    file.write_text("\n".join(lines))
    assert list(read_documents([file])) == [words, "b"]
    assert "".join(json_text_pieces(lines[0].encode())) == words


def test_a_task_file_may_have_a_number_of_any_digits(tmp_path: Path) -> None:
    text = json.dumps({"entries": [{"1": ENTRY}]})
    (tmp_path / "dev.json").write_text(text)
    (expected,) = read_webnlg(tmp_path, "validation")
    text = text.replace('"xml_id": "Id1"', f'"xml_id": {DIGITS}')
    (tmp_path / "dev.json").write_text(text)
    assert [*read_webnlg(tmp_path, "validation")] == [expected]
    text = text.replace('"lex": "A text."', f'"lex": {DIGITS}')
    (tmp_path / "dev.json").write_text(text)
    with pytest.raises(InputError, match="entry 1: `lex` must be text. Received: inf"):
        read_webnlg(tmp_path, "validation")


def test_an_id_of_a_vocabulary_may_not(tmp_path: Path) -> None:
    Tokenizer.train([], 257).save(tmp_path)
    file = tmp_path / "vocab.json"
    file.write_text(file.read_text("utf-8").replace(": 5,", f": {DIGITS},"), "utf-8")
    with pytest.raises(InputError, match="one JSON object of token to id"):
        Tokenizer.load(tmp_path)
    file.write_text("[" * 100_000)
    with pytest.raises(InputError, match="Cannot read the tokenizer .*nested too"):
        Tokenizer.load(tmp_path)
