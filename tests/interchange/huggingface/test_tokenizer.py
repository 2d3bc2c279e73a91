"""Tokenizers of GPT-2's kind are read, all others are refused by what differs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.interchange.huggingface.tokenizer import (
    read_tokenizer,
    write_tokenizer,
)

Document = dict[str, Any]


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    write_tokenizer(tokenizer, tmp_path, 48)
    return tmp_path


def edit(folder: Path, change: Callable[[Document], Any], name: str) -> None:
    file = folder / name
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")


def test_a_tokenizer_comes_back_from_either_pair_of_files(
    folder: Path, tokenizer: Tokenizer
) -> None:
    assert read_tokenizer(folder).fingerprint == tokenizer.fingerprint
    (folder / "tokenizer.json").unlink()
    assert read_tokenizer(folder).fingerprint == tokenizer.fingerprint


def test_merges_may_be_texts_or_pairs_and_the_end_an_added_token(
    folder: Path, tokenizer: Tokenizer
) -> None:
    def change(content: Document) -> None:
        model = content["model"]
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
        number = model["vocab"].pop("<|endoftext|>")
        assert content["added_tokens"][0]["id"] == number

    edit(folder, change, "tokenizer.json")
    assert read_tokenizer(folder).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["model"].update(type="WordPiece"), '`model.type` in .* be "BPE"'),
        (
            lambda d: d["model"].update(dropout=0.1),
            "`model.dropout` in .*Received: 0.1",
        ),
        (lambda d: d["model"].update(byte_fallback=True), "`model.byte_fallback`"),
        (lambda d: d["model"].update(ignore_merges=True), "`model.ignore_merges`"),
        (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix`"),
        (lambda d: d.update(model=None), "must have a `model`"),
        (lambda d: d.update(normalizer={"type": "NFC"}), "`normalizer` in .* be null"),
        (
            lambda d: d.update(pre_tokenizer=None),
            "`pre_tokenizer` in .* type ByteLevel",
        ),
        (
            lambda d: d.update(pre_tokenizer={"type": "Sequence", "pretokenizers": []}),
            "`pre_tokenizer.type` in .* must be \"ByteLevel\".*Received: 'Sequence'",
        ),
        (
            lambda d: d["pre_tokenizer"].update(add_prefix_space=True),
            "`pre_tokenizer.add_prefix_space` in .* must be false",
        ),
        (
            lambda d: d["pre_tokenizer"].update(use_regex=False),
            "pre_tokenizer.use_rege",
        ),
        (lambda d: d.update(decoder={"type": "Metaspace"}), "`decoder.type`"),
        (
            lambda d: d.update(post_processor={"type": "TemplateProcessing"}),
            '`post_processor.type` in .* must be "ByteLevel"',
        ),
        (
            lambda d: d["added_tokens"].append({"id": 280, "content": "[PAD]"}),
            r"must be <\|endoftext\|> alone. Received: '\[PAD\]'",
        ),
        (lambda d: d["model"].pop("merges"), "must have a `vocab` of token to id"),
        (lambda d: d["model"].update(merges=["a b c"]), "must have a `vocab` of token"),
        (lambda d: d["model"].update(merges=["q q"]), "cannot be used: The merges do"),
        (lambda d: d["model"].update(vocab={"a": "b"}), "must have a `vocab` of token"),
        (lambda d: d.pop("added_tokens"), "must have a `vocab` of token to id"),
        (
            lambda d: d["model"]["vocab"].pop("!"),
            "cannot be used: The ids of a vocabul",
        ),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused_by_what_differs(
    folder: Path, change: Callable[[Document], Any], sentence: str
) -> None:
    edit(folder, change, "tokenizer.json")
    with pytest.raises(InputError, match=sentence):
        read_tokenizer(folder)


@pytest.mark.parametrize("name", ["add_prefix_space", "add_bos_token", "add_eos_token"])
def test_options_that_change_the_ids_of_a_text_are_refused(
    folder: Path, name: str
) -> None:
    edit(folder, lambda d: d.update({name: True}), "tokenizer_config.json")
    with pytest.raises(InputError, match=f"`{name}` in .*_config.json' must be false"):
        read_tokenizer(folder)


def test_tokens_added_to_a_vocabulary_are_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text('{"<pad>": 280}')
    with pytest.raises(
        InputError, match="added_tokens.json' adds .* Received: '<pad>'"
    ):
        read_tokenizer(folder)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No tokenizer in .*expected vocab.json"):
        read_tokenizer(tmp_path)
