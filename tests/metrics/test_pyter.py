from collections.abc import Callable
from typing import Any

import pytest

from spdf_keras.metrics.pyter import pyter_items

CASES = ["generation_eval_example", "lora_webnlg_melbourne", "lora_dart_bart"]


def check(read_case: Callable[..., Any], name: str, step: int) -> list[float]:
    case = read_case(name, ".nltk")
    count = max(map(len, case.references))
    padded = [texts + [""] * (count - len(texts)) for texts in case.references]
    found = pyter_items(case.hypotheses[::step], padded[::step])
    assert found == case.segments["TER_pyter"][::step]
    return found


@pytest.mark.parametrize("name", CASES)
def test_it_equals_pyter3_in_some_segments(
    read_case: Callable[..., Any], name: str
) -> None:
    check(read_case, name, step=50)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_equals_pyter3_in_every_segment(
    read_case: Callable[..., Any], name: str
) -> None:
    found = check(read_case, name, step=1)
    expected = read_case(name).scores["all"]["TER_pyter_mean"]
    assert sum(found) / len(found) == pytest.approx(expected, 1e-12)


@pytest.mark.parametrize(
    ("hypothesis", "references", "rate"),
    [
        ("The cat", ["the cat"], 1 / 2),  # case counts
        ("on the mat the cat sat", ["the cat sat on the mat"], 1 / 6),
        ("b d c a", ["a b c d"], 3 / 4),
        ("a b c", ["x y", "a b c d"], 1 / 4),  # the lowest rate
        ("a b c", ["x", ""], 1),  # a missing reference is a rate of 1
        ("", ["a b"], 1),
    ],
)
def test_an_item_by_hand(hypothesis: str, references: list[str], rate: float) -> None:
    assert pyter_items([hypothesis], [references]) == [pytest.approx(rate)]


def test_of_equally_good_shifts_the_greatest_text_is_taken() -> None:
    # This is the library's own example.
    reference = "SAUDI ARABIA denied THIS WEEK information published in the AMERICAN"
    hypothesis = "THIS WEEK THE SAUDIS denied information published in the"
    texts = f"{hypothesis} new york times", f"{reference} new york times"
    (rate,) = pyter_items([texts[0]], [[texts[1]]])
    assert rate == pytest.approx(4 / 13)
