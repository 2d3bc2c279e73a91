"""JSON lines whose text has another key than `text`."""

import json
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.cli import main
from spdf_keras.data.corpus import documents as module
from spdf_keras.data.corpus.documents import CorpusReader
from spdf_keras.data.shards.prepare import prepare
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError

TEXTS = [f"page {n} has {n * n} words and a few cats" for n in range(40)]
TOKENIZER = Tokenizer.train(TEXTS, 300)
KEYS = ["content", "raw text", "t\u00e9xt", "\U0001f600", "a\\b", "k" * 100]


def write(file: Path, key: str, ascii_only: bool = True) -> Path:
    rows = [{"id": 1, "text": "no", key: text, "meta": {key: 2}} for text in TEXTS]
    lines = [json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows]
    file.write_text("".join(lines), "utf-8")
    return file


def read(file: Path, key: str) -> list[str]:
    return [piece.text for piece in CorpusReader([file], text_key=key).pieces()]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_texts_of_any_key_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, ascii_only: bool
) -> None:
    file = write(tmp_path / "a.jsonl", key, ascii_only)
    assert read(file, key) == TEXTS
    monkeypatch.setattr(module, "_LONG_LINE_BYTES", 10)  # every line is a long one
    assert read(file, key) == TEXTS
    assert read(file, "text") == ["no"] * len(TEXTS)


def test_shards_are_those_of_the_same_texts_under_text(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", "content")
    plain = tmp_path / "b.jsonl"
    plain.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    found = prepare([file], TOKENIZER, 16, tmp_path / "a", text_key="content")
    expected = prepare([plain], TOKENIZER, 16, tmp_path / "b")
    assert found["splits"] == expected["splits"]
    assert Shards.open(tmp_path / "a").fingerprint == (
        Shards.open(tmp_path / "b").fingerprint
    )


def test_a_finished_corpus_of_another_key_is_another(tmp_path: Path) -> None:
    def attempt(key: str) -> Any:
        return prepare([file], TOKENIZER, 16, tmp_path / "out", text_key=key)

    file = write(tmp_path / "a.jsonl", "content")
    done = attempt("content")
    assert attempt("content") == done
    for key in ("text", "meta"):
        with pytest.raises(InputError, match="is not empty: choose another"):
            attempt(key)


@pytest.mark.parametrize(("first", "second"), [("content", "text"), ("text", "body")])
def test_work_that_was_stopped_goes_on_with_the_same_key_only(
    tmp_path: Path, first: str, second: str
) -> None:
    def attempt(key: str, on_error: str = "stop") -> Any:
        out = tmp_path / "out"
        return prepare([file, bad], TOKENIZER, 16, out, 0.1, on_error, text_key=key)

    file, bad = write(tmp_path / "a.jsonl", first), tmp_path / "b.jsonl"
    bad.write_text('{"title": "no", "n": 1}\n')
    hint = f"line 1: it has no `{first}`, but `title` .see `--text-key`."
    with pytest.raises(InputError, match=hint):
        attempt(first)
    assert (tmp_path / "out" / "journal.json").is_file()
    with pytest.raises(InputError, match="begun with other text key"):
        attempt(second, "skip")
    assert attempt(first, "skip")["corpus"]["skipped"]["no document"]["count"] == 1


def test_a_key_that_nothing_has_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join(TEXTS))
    for key in ("content", ""):
        with pytest.raises(InputError, match="and no input of JSON lines"):
            prepare([text], TOKENIZER, 16, tmp_path / "out", text_key=key)
    assert [*tmp_path.iterdir()] == [text]


def test_the_command_takes_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", "content")
    command = ["prepare", str(file), "--out", str(tmp_path / "out")]
    command += ["--vocabulary-size", "300", "--context-length", "16"]
    assert main([*command, "--text-key", "contents"]) == 2
    assert "it has no `contents`, but `text`, `content` (see" in capsys.readouterr().err
    assert main([*command, "--text-key", "content", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sum(split["documents"] for split in found["splits"].values()) == len(TEXTS)
