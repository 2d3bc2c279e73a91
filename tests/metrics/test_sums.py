"""Scores of resampled items against the programs' scores of the same texts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from spdf_keras.metrics.protocols import PROTOCOLS, item_sums, score
from spdf_keras.metrics.sums import Sums

ReadCase = Callable[..., Any]

HYPOTHESES = [
    "Aromi is a cheap pub in the city centre.",
    "The Mill serves food by the river.",
    "There is a place called Wildwood near it.",
    "Pub.",
]
REFERENCES = [
    ["Aromi is a cheap pub in the centre of the city.", "A cheap pub is Aromi."],
    ["The Mill is by the river and serves food."],
    ["Wildwood is near it.", "There is a place called Wildwood.", "Near it."],
    ["A pub is there."],
]
# Each drawing has as many items as there are.
DRAWS = [[0, 1, 2, 3], [0, 0, 2, 2], [3, 3, 1, 0], [1, 1, 1, 2]]


def counted(draws: list[list[int]], items: int) -> np.ndarray[Any, Any]:
    return np.array([np.bincount(draw, minlength=items) for draw in draws], float)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_drawing_scores_as_its_texts_do(protocol: str) -> None:
    names = [*PROTOCOLS[protocol].measures]
    sums = item_sums(protocol, HYPOTHESES, REFERENCES, names)
    lacking = {"nist", "nist_perl", "cider"} & set(names)
    assert set(names) - set(sums) == lacking
    # Items keep the number of references of the whole case, missing ones included.
    most = max(map(len, REFERENCES))
    padded = [texts + [""] * (most - len(texts)) for texts in REFERENCES]
    found = {name: s.resampled(counted(DRAWS, 4)) for name, s in sums.items()}
    for place, draw in enumerate(DRAWS):
        texts = [HYPOTHESES[i] for i in draw], [padded[i] for i in draw]
        right = score(protocol, *texts).values
        for name, values in found.items():
            assert values[place] == pytest.approx(right[name], abs=1e-12), name


def test_bleu_of_drawings_is_that_of_sacrebleu() -> None:
    # Items of equally many references: sacreBLEU takes streams of references.
    references = [
        texts[:1] * 2 if len(texts) < 2 else texts[:2] for texts in REFERENCES
    ]
    rng = np.random.default_rng(0)
    draws = rng.choice(4, (50, 4)).tolist()
    sums = item_sums("e2e-metrics", HYPOTHESES, references, ["bleu"])["bleu"]
    found = sums.resampled(counted(draws, 4))
    metric = BLEU(lowercase=True, tokenize="13a", smooth_method="exp")
    compared = 0
    for value, draw in zip(found, draws, strict=True):
        texts = [HYPOTHESES[i] for i in draw]
        streams = [[references[i][k] for i in draw] for k in range(2)]
        right = metric.corpus_score(texts, streams).score
        # Where nothing matches, sacreBLEU is 0 and mteval smooths.
        if right:
            assert 100 * value == pytest.approx(right, abs=1e-9)
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("case", ["e2e_test_tgen", "lora_dart_bart"])
def test_sums_of_all_items_give_the_official_bleu(
    case: str, read_case: ReadCase
) -> None:
    texts = read_case(case)
    is_e2e = texts.protocol == "e2e-metrics"
    official = texts.scores if is_e2e else texts.scores["all"]
    right = official["mteval_v13a_perl"]["BLEU"] if is_e2e else official["BLEU"]["full"]
    sums = item_sums(texts.protocol, texts.hypotheses, texts.references, ["bleu"])
    items = range(len(texts.hypotheses))
    assert sums["bleu"].of(items) == pytest.approx(right, rel=1e-9)
    once = np.ones((1, len(items)))
    assert sums["bleu"].resampled(once).tolist() == [sums["bleu"].of(items)]


def test_a_drawing_without_a_score_is_not_a_number() -> None:
    sums = item_sums("dart", ["a pub", ""], [["a pub"], ["two"]], ["bleu"])["bleu"]
    values = sums.resampled(np.array([[0.0, 2.0], [2.0, 0.0]]))
    assert np.isnan(values[0]) and values[1] == 0.0


def test_a_row_of_numbers_has_one_score_per_drawing() -> None:
    sums = Sums(np.eye(3), max)
    assert sums.resampled(np.full((5, 3), 2.0)).tolist() == [2.0] * 5
