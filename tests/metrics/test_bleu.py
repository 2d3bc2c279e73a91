import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from spdf_keras.errors import InputError
from spdf_keras.metrics.bleu import (
    MULTI_BLEU,
    add,
    corpus_bleu,
    mteval_bleu,
    mteval_counts,
    multi_bleu,
    multi_bleu_counts,
    pymteval_bleu,
    pymteval_counts,
)
from spdf_keras.metrics.checks import UndefinedScoreError

E2E = ["e2e_dev_truncated", "e2e_tgen_shuffled", "e2e_example10"]
ODD = ["e2e_tiny", *(f"e2e_mini_{n}" for n in ("emptyhyp", "nomatch", "short"))]
ODD += [f"e2e_mini_{n}" for n in ("identity", "long", "no4gram")]

ODD_BLANKS = ["\u00a0", "\u0085", "\u1680", "\u2003", "\u2028", "\u202f", "\u3000"]


def multi(options: str, hypotheses: list[str], references: list[list[str]]) -> float:
    counts = multi_bleu_counts(hypotheses, references, MULTI_BLEU[options])
    return multi_bleu(add(counts))


@pytest.mark.parametrize("name", E2E + ODD)
def test_it_equals_both_programs_of_e2e(
    read_case: Callable[..., Any], name: str
) -> None:
    case = read_case(name)
    texts = case.hypotheses, case.references
    perl, python = case.scores["mteval_v13a_perl"], case.scores["pymteval"]
    # The sums are the same, so only the last digits may differ.
    assert mteval_bleu(add(mteval_counts(*texts))) == pytest.approx(perl["BLEU"], 1e-12)
    found = pymteval_bleu(add(pymteval_counts(*texts)))
    assert found == pytest.approx(python["BLEU"], 1e-12)


def test_each_segment_equals_pymteval(read_case: Callable[..., Any]) -> None:
    case = read_case("e2e_tiny")
    counts = pymteval_counts(case.hypotheses, case.references)
    assert [*map(pymteval_bleu, counts)] == pytest.approx(case.segments["BLEU"], 1e-12)
    smooth = [pymteval_bleu(count, smoothing=1) for count in counts]
    assert smooth == pytest.approx(case.segments["sentBLEU"], 1e-12)


@pytest.mark.parametrize("name", E2E[:2])
def test_sacrebleu_equals_the_official_e2e_scorer(
    read_case: Callable[..., Any], name: str
) -> None:
    case = read_case(name)
    score = corpus_bleu(case.hypotheses, case.references)
    expected = 100 * case.scores["mteval_v13a_perl"]["BLEU"]
    assert score.bleu == pytest.approx(expected, rel=1e-9)


def test_a_score_by_hand() -> None:
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 quadruples; equal lengths.
    texts = ["the cat sat on it"], [["The cat sat on them"]]
    by_hand = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert mteval_bleu(add(mteval_counts(*texts))) == pytest.approx(by_hand)
    assert pymteval_bleu(add(pymteval_counts(*texts))) == pytest.approx(by_hand)
    assert multi("multi -lc", *texts) == pytest.approx(100 * by_hand)
    score = corpus_bleu(*texts)
    assert score.bleu == pytest.approx(100 * by_hand)
    assert "case:lc" in score.signature and "tok:13a" in score.signature


@pytest.mark.parametrize(
    ("options", "blank", "expected"),
    [
        # multi-bleu-detok.perl and multi-bleu.perl print these, to ten digits.
        *((name, blank, 74.9505035616) for name in MULTI_BLEU for blank in ODD_BLANKS),
        *((name, "\t", 100.0) for name in MULTI_BLEU),
    ],
)
def test_the_scripts_of_moses_read_bytes(
    options: str, blank: str, expected: float
) -> None:
    pub = "The pub is at{}the river side and it is cheap ."
    hypotheses = [pub.format(blank), "Aromi is a coffee shop ."]
    references = [[pub.format(" ")], ["Aromi is a coffee shop ."]]
    assert multi(options, hypotheses, references) == pytest.approx(expected, 1e-11)
    # mteval-v13a.pl decodes UTF-8, and its `\s` matches these blanks.
    assert mteval_bleu(add(mteval_counts(hypotheses, references))) == pytest.approx(1)


def test_case_counts_where_the_script_says_so() -> None:
    assert multi("multi", ["A b c d e"], [["a b c d e"]]) < 100
    assert multi("multi -lc", ["A b c d e"], [["a b c d e"]]) == pytest.approx(100)
    assert multi("detok", ["A b c d."], [["A b c d ."]]) == pytest.approx(100)


def test_perl_smooths_what_has_no_match_and_leaves_out_what_is_too_short() -> None:
    # Two of three words match, no pair: 1/2 of 2, no triple: 1/4 of 1, no quadruple.
    (counts,) = mteval_counts(["a x b"], [["b y a"]])
    assert mteval_bleu(counts) == pytest.approx((2 / 3 * 1 / 4 * 1 / 4) ** 0.25)
    (none,) = mteval_counts([""], [["b y a"]])
    assert mteval_bleu(none) == 0


def test_an_empty_reference_counts_for_the_scripts_of_moses_alone() -> None:
    hypotheses, long = ["a b c d", "x"], "a b c d e f g h i j"
    # 4 words are nearer to none than to ten.
    assert multi("multi", hypotheses, [[long, ""], ["x", "y"]]) == pytest.approx(100)
    without = multi("multi", hypotheses, [[long], ["x"]])
    assert without == pytest.approx(100 * math.exp(1 - 11 / 5))
    (counts,) = mteval_counts(hypotheses[:1], [[long, "<skipped>"]])
    assert counts.reference_length == 10


def test_moses_gives_0_without_a_quadruple_and_fails_without_a_word() -> None:
    assert multi("multi", ["a b c"], [["a b c"]]) == 0
    with pytest.raises(UndefinedScoreError, match="no hypothesis has a word"):
        multi("multi", ["", " "], [["a"], ["b"]])


def test_items_may_differ_in_their_number_of_references() -> None:
    one = ["a b c d e", "f g h i j"]
    references = [["x", "a b c d e"], ["f g h i j"]]
    assert corpus_bleu(one, references).bleu == 100
    assert mteval_bleu(add(mteval_counts(one, references))) == pytest.approx(1)


@pytest.mark.parametrize(
    ("hypotheses", "references", "sentence"),
    [
        (["a"], [["a"], ["b"]], "1 hypotheses for 2 items"),
        ([], [], "There is nothing to score"),
        (["a", "b"], [["a"], []], "Item 2 has no reference"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    hypotheses: Sequence[str], references: Sequence[list[str]], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        corpus_bleu(hypotheses, references)
