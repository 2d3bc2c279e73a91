from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras.metrics.checks import UndefinedScoreError
from spdf_keras.metrics.tercom import Ter, ter, ter_items

CASES = ["webnlg2017_upf", "webnlg2017_tilburg_nmt", "webnlg2017_adapt"]
CASES += ["dart_official_bart", "tiny_text"]
TEXT = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).map(" ".join)


def check(read_case: Callable[..., Any], name: str, step: int) -> list[Ter]:
    case = read_case(name)
    found = ter_items(case.hypotheses[::step], case.references[::step])
    assert [item.edits for item in found] == case.segments["TER_edits"][::step]
    words = case.segments["TER_reference_words"][::step]
    assert [item.words for item in found] == words
    return found


@pytest.mark.parametrize("name", CASES)
def test_it_equals_tercom_in_some_segments(
    read_case: Callable[..., Any], name: str
) -> None:
    check(read_case, name, step=50)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_equals_tercom_in_every_segment(
    read_case: Callable[..., Any], name: str
) -> None:
    found = check(read_case, name, step=1)
    expected = read_case(name).scores["all"]["TER"]["score"]
    assert ter(found) == pytest.approx(expected, 1e-12)


@pytest.mark.parametrize(
    ("hypothesis", "references", "edits", "words"),
    [
        ("The cat", ["the CAT"], 0, 2),  # case does not count
        ("on the mat the cat sat", ["the cat sat on the mat"], 1, 6),  # one shift
        ("a b c d", ["x", "a b c"], 1, 2),  # edits of the best, words of the mean
        ("", ["a b"], 2, 2),
        ("a b", [""], 2, 0),
        ("a\u00a0b", ["a b"], 2, 2),  # a blank that is none in Java
    ],
)
def test_an_item_by_hand(
    hypothesis: str, references: list[str], edits: int, words: float
) -> None:
    assert ter_items([hypothesis], [references]) == [Ter(edits, words)]


def test_the_score_is_all_edits_by_all_words() -> None:
    assert ter([Ter(1, 2.0), Ter(3, 6.0)]) == 0.5
    with pytest.raises(UndefinedScoreError, match="no reference has a word"):
        ter([Ter(1, 0.0)])


@settings(deadline=None)
@given(TEXT, TEXT)
def test_shifts_never_cost_more_than_they_save(hypothesis: str, reference: str) -> None:
    ((item,), (same,)) = (
        ter_items([hypothesis], [[other]]) for other in (reference, hypothesis)
    )
    assert same.edits == 0
    longest = max(len(hypothesis.split()), len(reference.split()))
    assert 0 <= item.edits <= longest
