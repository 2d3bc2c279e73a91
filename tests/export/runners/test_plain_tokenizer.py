import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.export.runners.plain_tokenizer import PlainTokenizer

TEXT = "it's we're they've I'm you'll he'd, 1234 low  lower\n\nlowest  über ½ 北京 "

HARD = [
    "",
    " ",
    "  a",
    "a  b \n c\n\n",
    "'s's 't' 'res",
    "don't 'S 'll",
    "x\u00a0y\u2003 z\u3000",
    "a1b2 ½²Ⅷ",
    "e\u0301 \u096c\u0301",
    "\x1c\x85\x00",
    "🙂🙂  !?! ...",
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: Any) -> tuple[PlainTokenizer, Tokenizer]:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer.train([TEXT] * 3, 340)
    tokenizer.save(folder)
    return PlainTokenizer(folder), tokenizer


@pytest.mark.parametrize("text", [*HARD, TEXT])
def test_ids_are_those_of_the_library(
    pair: tuple[PlainTokenizer, Tokenizer], text: str
) -> None:
    plain, tokenizer = pair
    token_ids = tokenizer.encode(text)
    assert plain.encode(text) == token_ids
    assert plain.decode(token_ids) == text
    assert plain.end_token_id == tokenizer.end_token_id


# Python and the library may know different versions of Unicode: the common planes.
@settings(max_examples=200, deadline=None)
@given(
    text=st.text(
        st.one_of(
            st.characters(max_codepoint=0x24F, exclude_categories=["Cs"]),
            st.sampled_from(" \n\t\u2003'stmdrevl0½北é🙂"),
        )
    )
)
def test_any_text_has_the_ids_of_the_library(
    pair: tuple[PlainTokenizer, Tokenizer], text: str
) -> None:
    plain, tokenizer = pair
    assert plain.encode(text) == tokenizer.encode(text)


def test_cut_bytes_decode_as_the_library_does(
    pair: tuple[PlainTokenizer, Tokenizer],
) -> None:
    plain, tokenizer = pair
    token_ids = tokenizer.encode("北")[:-1]
    assert plain.decode(token_ids) == tokenizer.decode(token_ids) == "\ufffd"


def test_tokens_of_other_characters_decode_as_the_library_does(tmp_path: Path) -> None:
    vocabulary = Tokenizer.train([TEXT], 300).vocabulary
    tokenizer = Tokenizer({**vocabulary, "<日>": len(vocabulary)}, [])
    tokenizer.save(tmp_path)
    every = list(range(tokenizer.vocabulary_size))
    decoded = PlainTokenizer(tmp_path).decode(every)
    assert decoded == tokenizer.decode(every) and decoded.endswith("<日>")


@pytest.mark.parametrize(
    ("drop", "extra", "merges", "sentence"),
    [
        ("Z", {}, "", r"for each of the 256 bytes.* none for 0x5A$"),
        ("<|endoftext|>", {}, "", "must be a JSON object with '<|endoftext|>'"),
        ("", {"x y": "1"}, "", "ids in vocab.json must be 0 to 257"),
        ("", {"x y": 9}, "", "ids in vocab.json must be 0 to 257"),
        ("", {}, "a b", "line 2: 'a b' must be two tokens .* that make a third"),
        ("", {}, "a b c", "line 2: 'a b c' must be two tokens"),
        ("", {}, "ab", "line 2: 'ab' must be two tokens"),
    ],
)
def test_what_would_lose_text_is_refused(
    tmp_path: Path, drop: str, extra: dict[str, Any], merges: str, sentence: str
) -> None:
    names = [t for t in Tokenizer.train([], 257).vocabulary if t != drop]
    vocabulary = {**{token: i for i, token in enumerate(names)}, **extra}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    with pytest.raises(ValueError, match=sentence.replace("|", r"\|")):
        PlainTokenizer(tmp_path)
