from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras.metrics.rouge_l import common_length, rouge_l

CASES = ["e2e_dev_truncated", "e2e_tgen_shuffled", "e2e_tiny", "e2e_mini_emptyhyp"]
TOKENS = st.lists(st.sampled_from("abc"), max_size=9)


@pytest.mark.parametrize("name", CASES)
def test_it_equals_coco_caption_in_every_segment(
    read_case: Callable[..., Any], name: str
) -> None:
    case = read_case(name, ".ptb")
    found = [*map(rouge_l, case.hypotheses, case.references)]
    assert found == pytest.approx(case.segments["ROUGE_L"], abs=1e-12)
    mean = sum(found) / len(found)
    assert mean == pytest.approx(case.scores["coco_caption"]["ROUGE_L"], 1e-12)


def test_a_score_by_hand() -> None:
    # Two of three tokens, two of two: recall weighs 1.44 times as much.
    precision, recall = 2 / 3, 1
    by_hand = 2.44 * precision * recall / (recall + 1.44 * precision)
    assert rouge_l("the big cat", ["the cat"]) == pytest.approx(by_hand)


def test_precision_and_recall_may_come_from_two_references() -> None:
    assert rouge_l("a b", ["a", "a b c d e f"]) == pytest.approx(1)


def test_texts_without_a_token_match_each_other_and_nothing_else() -> None:
    assert rouge_l("", [""]) == 1
    assert rouge_l("", ["a b"]) == rouge_l("a", [""]) == 0


def slow_length(first: list[str], second: list[str]) -> int:
    row = [0] * (len(second) + 1)
    for one in first:
        before, row = row, [0]
        for i, other in enumerate(second):
            row.append(before[i] + 1 if one == other else max(before[i + 1], row[i]))
    return row[-1]


@settings(deadline=None)
@given(TOKENS, TOKENS)
def test_the_common_length_is_that_of_the_table(
    first: list[str], second: list[str]
) -> None:
    assert common_length(first, second) == slow_length(first, second)
