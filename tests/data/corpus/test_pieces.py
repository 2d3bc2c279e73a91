import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras.data.corpus import pieces as module
from spdf_keras.data.corpus.pieces import cut, json_text_pieces
from spdf_keras.data.tokenizers.bpe import Tokenizer

TOKENIZER = Tokenizer.train(
    ["the cats' 1st re-run, we'll see 'em  \n\n all 12"] * 9, 400
)

# What GPT-2's expression tells apart, and what Unicode has of each kind: spaces
# that Python and Unicode disagree on, numbers that are no digits, marks, letters
# of every case and of none, apostrophes that begin contractions.
HARD = (
    "aZ019 \n\t\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u3000\u200b\ufeff"
    "'’srtvemlld.,!-_~²½Ⅷ٣éßяあ中한。、！\u0301\u20ddªʰ😀\x00\U000e0100"
)
TEXT = st.one_of(st.text(st.sampled_from(HARD)), st.text())


@pytest.fixture(scope="module", autouse=True)
def short_pieces() -> Iterator[None]:
    """Pieces of 2 characters and more, so that every kind of place is met."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_CHARACTERS", 2)
        yield


@settings(max_examples=1000)
@given(TEXT)
def test_the_pieces_have_the_ids_of_the_whole(text: str) -> None:
    pieces = cut(text)
    assert "".join(pieces) == text
    assert all(len(piece) >= 2 for piece in pieces[:-1])
    ids = TOKENIZER.encode_arrays(pieces, np.dtype(np.uint16))
    assert np.concatenate(ids).tolist() == TOKENIZER.encode(text)


def test_ordinary_text_is_cut_often() -> None:
    assert cut("we'll see 2 cats.") == ["we", "'ll", " see", " 2", " cats", "."]
    assert cut("こんにちは。世界") == ["こんにちは", "。世界"]


def test_pairs_of_all_characters_that_may_stand_at_a_place_are_safe() -> None:
    pairs = (f"xy{chr(left)}{right}z" for left in range(0x3400) for right in " \n.'7")
    texts = {text: pieces for text in pairs if len(pieces := cut(text)) > 1}
    ids = iter(TOKENIZER.encode_batch([p for pieces in texts.values() for p in pieces]))
    wholes = TOKENIZER.encode_batch(list(texts))
    for (text, pieces), whole in zip(texts.items(), wholes, strict=True):
        assert [i for _ in pieces for i in next(ids)] == whole, repr(text)


def test_a_run_without_a_place_to_cut_is_refused() -> None:
    assert cut("a" * 12, max_run=10) == ["a" * 12]
    with pytest.raises(ValueError, match="more than 10 characters without a space"):
        cut("a" * 13, max_run=10)
    with pytest.raises(ValueError, match="more than 10 characters"):
        cut("a" * 13 + " b", max_run=10)


@given(TEXT, st.booleans(), st.dictionaries(st.text(max_size=3), st.text(max_size=3)))
def test_the_text_of_a_long_json_line_is_that_of_a_short_one(
    text: str, ascii_only: bool, meta: dict[str, str]
) -> None:
    record = {"a": [text, {"text": 1}], **meta, "text": text, "meta": meta}
    line = json.dumps(record, ensure_ascii=ascii_only).encode()
    assert "".join(json_text_pieces(line)) == text
    spaced = json.dumps({"text": "no", "z": 1}).encode()[:-1] + b", " + line[1:]
    assert "".join(json_text_pieces(spaced)) == text  # the last one counts


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"text": "a b c d", "b"}', "it is not JSON"),
        (b'{"text": "a \\x b"}', "it is not JSON: Invalid"),
        (b'{"text": "a b c d', "it is not JSON"),
        (b'{"text": "a \xff b"}', "it is not UTF-8"),
        (b'{"text": "a\n b c"}', "it is not JSON: Invalid control character"),
        (b'{"Text": "a b c d"}', "it has no `text`"),
        (b'["text", "a b c d"]', "it has no `text`"),
        (b'{"text": ["a b c d"]}', "its `text` is not a string"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_long_json_line_that_is_no_document_is_refused(
    line: bytes, sentence: str
) -> None:
    read: Callable[[bytes], Iterator[str]] = json_text_pieces
    with pytest.raises(ValueError, match=sentence):
        list(read(line))
