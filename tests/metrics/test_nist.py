import math
from collections.abc import Callable
from typing import Any

import pytest

from spdf_keras.metrics.checks import UndefinedScoreError
from spdf_keras.metrics.nist import nist, nist_perl

CASES = ["e2e_tgen_shuffled", "e2e_dev_truncated", "e2e_tiny"]
CASES += ["e2e_mini_identity", "e2e_mini_long", "e2e_mini_no4gram", "e2e_example10"]


@pytest.mark.parametrize("name", CASES)
def test_it_equals_both_programs_of_e2e(
    read_case: Callable[..., Any], name: str
) -> None:
    case = read_case(name)
    perl, python = case.scores["mteval_v13a_perl"], case.scores["pymteval"]
    found = nist(case.hypotheses, case.references)
    assert found == pytest.approx(python["NIST"], 1e-12)
    found = nist_perl(case.hypotheses, case.references)
    assert found == pytest.approx(perl["NIST"], 1e-12)


@pytest.mark.parametrize("name", ["emptyhyp", "nomatch", "short"])
def test_it_says_where_pymteval_fails(read_case: Callable[..., Any], name: str) -> None:
    case = read_case(f"e2e_mini_{name}")
    assert "ZeroDivisionError" in case.scores["pymteval"]["NIST"]
    with pytest.raises(UndefinedScoreError, match=r"no \d-gram in all"):
        nist(case.hypotheses, case.references)
    perl = case.scores["mteval_v13a_perl"]["NIST"]
    found = nist_perl(case.hypotheses, case.references)
    assert found == pytest.approx(perl, 1e-12)


def test_each_segment_equals_pymteval_or_fails_as_it_does(
    read_case: Callable[..., Any],
) -> None:
    case = read_case("e2e_tiny")
    for text, references, expected in zip(
        case.hypotheses, case.references, case.segments["NIST"], strict=True
    ):
        if expected is None:
            with pytest.raises(UndefinedScoreError):
                nist([text], [references])
        else:
            assert nist([text], [references]) == pytest.approx(expected, 1e-12)


def test_a_score_by_hand() -> None:
    # Each word is one of four; a longer n-gram is certain once its start is known.
    texts = ["a b c d"], [["a b c d"]]
    assert nist_perl(*texts) == pytest.approx(math.log2(4))


def test_a_hypothesis_of_two_thirds_of_the_words_has_half_the_score() -> None:
    long, short = "a b c d e f", "a b c d"
    words = [math.log2(6)] * 4
    by_hand = sum(words) / 4 / 2
    assert nist_perl([short], [[long]]) == pytest.approx(by_hand)


def test_perl_takes_what_follows_a_lone_0_for_a_single_word() -> None:
    texts = ["0 a b c d"], [["0 a b c d", "0 x b c d"]]
    # "0 a" counts as one of ten words; behind "0" it would be one of two.
    extra = (math.log2(10) - math.log2(2)) / 4
    renamed = ["1 a b c d"], [["1 a b c d", "1 x b c d"]]
    assert nist_perl(*texts) == pytest.approx(nist_perl(*renamed) + extra)
    assert nist(*texts) == pytest.approx(nist(*renamed))


def test_perl_fails_without_a_word_to_reach() -> None:
    with pytest.raises(UndefinedScoreError, match="no reference has a word"):
        nist_perl(["a"], [["<skipped>"]])
