import math
from collections.abc import Callable
from typing import Any

import pytest

from spdf_keras.metrics.checks import UndefinedScoreError
from spdf_keras.metrics.cider import cider

CASES = ["e2e_dev_truncated", "e2e_tgen_shuffled", "e2e_tiny", "e2e_mini_emptyhyp"]
CASES += ["e2e_mini_nomatch", "e2e_mini_long"]


@pytest.mark.parametrize("name", CASES)
def test_it_equals_coco_caption_in_every_segment(
    read_case: Callable[..., Any], name: str
) -> None:
    case = read_case(name, ".ptb")
    found = cider(case.hypotheses, case.references)
    assert found == pytest.approx(case.segments["CIDEr"], abs=1e-12)
    mean = sum(found) / len(found)
    expected = case.scores["coco_caption"]["CIDEr"]
    assert mean == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_score_by_hand() -> None:
    # "b" is in both items and weighs nothing. The cosine of the words is that of
    # "a" against "a" and "c"; of the pairs, one has no match.
    first, second = cider(["a b", "x y"], [["a b c"], ["b d"]])
    words, pairs = 1 / math.sqrt(2), 1 / math.sqrt(2)
    penalty = math.exp(-1 / 72)
    assert first == pytest.approx(10 * (words + pairs) / 4 * penalty)
    assert second == 0


def test_a_single_item_has_no_rare_words() -> None:
    assert cider(["a b c d"], [["a b c d"]]) == [0]


def test_a_text_without_a_token_scores_0() -> None:
    assert cider(["", "a b"], [["a b"], ["c", ""]]) == [0, 0]


def test_it_fails_where_no_reference_has_a_token() -> None:
    with pytest.raises(UndefinedScoreError, match="no reference has a token"):
        cider(["a"], [[""]])
