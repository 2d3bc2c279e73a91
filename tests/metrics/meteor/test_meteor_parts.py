import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spdf_keras.errors import InputError
from spdf_keras.metrics.meteor import paraphrases
from spdf_keras.metrics.meteor.alignment import align, count_chunks
from spdf_keras.metrics.meteor.cache import cached_array
from spdf_keras.metrics.meteor.matching import (
    EXACT,
    PARAPHRASE,
    STEM,
    SYNONYM,
    Match,
    Text,
    find_matches,
)
from spdf_keras.metrics.meteor.normalize import words_of
from spdf_keras.metrics.meteor.paraphrases import Phrases, find_paraphrases
from spdf_keras.metrics.meteor.stemmer import stem
from spdf_keras.metrics.meteor.synonyms import synonym_sets


# The jar's own normaliser gives these words.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("1,000 a,b 1,b a,1", ["1,000", "a", ",", "b", "1", ",", "b", "a", ",", "1"]),
        ("don't 'tis 90's O'Neil", ["don", "'t", "'", "tis", "90", "'s", "o", "'neil"]),
        ("well-known U.S.-based", ["well", "known", "us", "based"]),
        (
            "etc. Mr. Li. No. 5 no.",
            ["etc", ".", "mr.", "li", ".", "no.", "5", "no", "."],
        ),
        ("wait... what..", ["wait", "...", "what", ".."]),
        (
            "“a” ‘b’ `c` ''d''",
            ['"', "a", '"', "'", "b", "'", "'", "c", "'", '"', "d", '"'],
        ),
        ("a – b--c £20", ["a", "-", "b", "c", "£", "20"]),
        ("日本 é\u00a0x", ["日", "本", "é", "x"]),
    ],
)
def test_a_text_has_these_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


# These words are from the vocabulary that comes with the stemmer.
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("consistency", "consist"),
        ("knightly", "knight"),
        ("kneeling", "kneel"),
        ("skies", "sky"),
        ("ties", "tie"),
        ("cries", "cri"),
        ("gas", "gas"),
        ("this", "this"),
        ("hopping", "hop"),
        ("hoping", "hope"),
        ("agreed", "agre"),
        ("communication", "communic"),
        ("generally", "general"),
        ("inning", "inning"),
        ("youth's", "youth"),
        ("boy", "boy"),
        ("by", "by"),
        ("é", "é"),
    ],
)
def test_a_word_has_this_stem(word: str, expected: str) -> None:
    assert stem(word) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [("cheap", "inexpensive"), ("kids", "child"), ("geese", "goose"), ("ran", "run")],
)
def test_synonyms_are_found_by_the_base_forms_of_words(one: str, other: str) -> None:
    assert synonym_sets(one) & synonym_sets(other)


def test_unknown_words_have_no_synonyms() -> None:
    assert not synonym_sets("qwertzu") and not synonym_sets("")


def find(hypothesis: str, reference: str) -> list[list[Match]]:
    words = [hypothesis.split(), reference.split()]
    (one, other), table = find_paraphrases(words)
    return find_matches(Text(words[0], one), Text(words[1], other), table)


def test_matches_come_by_matcher_and_from_left_to_right() -> None:
    (matches,) = find("kids kid cat kids", "kid")
    assert [(m.at, m.matcher) for m in matches if m.matcher != PARAPHRASE] == [
        (1, EXACT),
        (0, STEM),
        (3, STEM),
        (0, SYNONYM),
        (3, SYNONYM),
    ]


def test_phrases_are_matched_in_both_directions_of_the_table() -> None:
    matches = find("once more", "again") + find("again", "once more")
    found = {m[1:] for group in matches for m in group if m.matcher == PARAPHRASE}
    assert found == {(1, 0, 2, PARAPHRASE), (2, 0, 1, PARAPHRASE)}


def test_equal_texts_have_exact_matches_only() -> None:
    matches = find("a cheap inexpensive pub", "a cheap inexpensive pub")
    assert {m.matcher for group in matches for m in group} == {EXACT}


def test_texts_without_words_have_no_phrases() -> None:
    assert find_paraphrases([[], []]) == ([Phrases(), Phrases()], {})
    assert find("", "a cat") == [[], []]


def exact(start: int, at: int) -> Match:
    return Match(start, 1, at, 1, EXACT)


def test_the_alignment_with_fewest_chunks_is_chosen() -> None:
    # "b a b" against "a b": the last two words are one chunk.
    options = [[exact(0, 1)], [exact(1, 0), exact(1, 2)]]
    assert align(options) == [exact(0, 1), exact(1, 2)]


def test_no_word_is_used_twice() -> None:
    phrase = Match(0, 2, 0, 2, PARAPHRASE)
    chosen = align([[phrase, exact(0, 0)], [exact(1, 1)], [exact(2, 1)]])
    words = [m.start + i for m in chosen for i in range(m.length)]
    places = [m.at + i for m in chosen for i in range(m.at_length)]
    assert len(words) == len(set(words)) and len(places) == len(set(places))


def test_chunks_are_runs_in_both_texts() -> None:
    assert count_chunks([]) == 0
    assert count_chunks([exact(0, 3), exact(1, 4), exact(2, 0)]) == 2
    assert count_chunks([exact(0, 0), exact(2, 1)]) == 2
    assert count_chunks([Match(0, 2, 0, 1, PARAPHRASE), exact(2, 1)]) == 1


@pytest.fixture
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.delenv("SPDF_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path / "spdf_keras"


def built(calls: list[int]) -> np.ndarray:
    calls.append(1)
    return np.arange(5, dtype=np.uint64)


def test_a_cached_array_is_built_once(cache_folder: Path) -> None:
    calls: list[int] = []
    for _ in range(3):
        assert cached_array("x", lambda: built(calls)).tolist() == [0, 1, 2, 3, 4]
    assert len(calls) == 1
    assert [file.name for file in cache_folder.iterdir()] == ["x"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8, b"\0" * 48, b"odd", np.arange(6, dtype="<u8").tobytes()],
)
def test_a_damaged_array_is_built_anew(cache_folder: Path, content: bytes) -> None:
    cache_folder.mkdir()
    (cache_folder / "x").write_bytes(content)
    calls: list[int] = []
    for _ in range(2):
        assert cached_array("x", lambda: built(calls)).tolist() == [0, 1, 2, 3, 4]
    assert len(calls) == 1


def test_without_a_folder_to_write_to_it_works(cache_folder: Path) -> None:
    cache_folder.write_text("a file in its place")
    calls: list[int] = []
    for _ in range(2):
        assert cached_array("x", lambda: built(calls)).tolist() == [0, 1, 2, 3, 4]
    assert len(calls) == 2


def small_table(file: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    file.write_bytes(packer.compress(text.encode()) + packer.flush())
    monkeypatch.setattr(paraphrases, "official_file", lambda path: file)
    paraphrases._index.cache_clear()


@pytest.fixture
def forget_the_table() -> Iterator[None]:
    yield
    paraphrases._index.cache_clear()


@pytest.mark.usefixtures("cache_folder", "forget_the_table")
def test_a_table_is_looked_up_phrase_by_phrase(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = "0.5\na\nx y\n0.5\na\nz\n0.1\na b\nx\n0.2\nc\nabsent\n"
    small_table(tmp_path / "t.gz", table, monkeypatch)
    (one, other), found = find_paraphrases([["a", "b", "c"], ["z", "x", "y"]])
    assert [(start, length) for start, length, _ in one.places] == [(0, 1), (0, 2)]
    assert [(s, n) for s, n, _ in other.places] == [(0, 1), (1, 1), (1, 2)]
    (a, ab), (z, x, xy) = (
        [phrase for *_, phrase in text.places] for text in (one, other)
    )
    assert found == {a: {xy: 0, z: 1}, ab: {x: 0}}


@pytest.mark.usefixtures("cache_folder", "forget_the_table")
@pytest.mark.parametrize("cut", [1, 8, 15])
def test_a_table_that_is_not_whole_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cut: int
) -> None:
    file = tmp_path / "t.gz"
    small_table(file, "0.5\na\nb\n", monkeypatch)
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(InputError, match="must be whole; install its package again"):
        find_paraphrases([["a"]])


@pytest.mark.usefixtures("cache_folder", "forget_the_table")
def test_a_table_that_is_no_gzip_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "t.gz"
    small_table(file, "", monkeypatch)
    file.write_bytes(b"this is not gzip at all")
    with pytest.raises(InputError, match="cannot be read: "):
        find_paraphrases([["a"]])
