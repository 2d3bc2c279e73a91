import gzip
import json
from pathlib import Path

import pytest

from spdf_keras.errors import InputError
from spdf_keras.metrics.bleu import corpus_bleu


@pytest.mark.parametrize(
    "case", ["e2e_test_tgen", "e2e_test_sheff2", "e2e_dev_template"]
)
def test_bleu_equals_the_official_e2e_scorer(real_data: Path, case: str) -> None:
    folder = real_data / "scorer_cases" / case

    def read(name: str) -> str:
        return gzip.open(folder / name, "rt", encoding="utf-8").read()

    blocks = read("references.txt.gz").strip().split("\n\n")
    references = [block.split("\n") for block in blocks]
    score = corpus_bleu(read("hypotheses.txt.gz").splitlines(), references)
    official = json.loads((folder / "scores.json").read_text())
    expected = 100 * official["scores"]["mteval_v13a_perl"]["BLEU"]
    assert score.bleu == pytest.approx(expected, rel=1e-9)


def test_a_score_by_hand() -> None:
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 quadruples; equal lengths.
    score = corpus_bleu(["the cat sat on it"], [["The cat sat on them"]])
    assert score.bleu == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert "case:lc" in score.signature and "tok:13a" in score.signature


def test_items_may_differ_in_their_number_of_references() -> None:
    one = ["a b c d e", "f g h i j"]
    assert corpus_bleu(one, [["x", "a b c d e"], ["f g h i j"]]).bleu == 100


@pytest.mark.parametrize(
    ("hypotheses", "references", "sentence"),
    [
        (["a"], [["a"], ["b"]], "1 hypotheses for 2 items"),
        ([], [], "There is nothing to score"),
        (["a", "b"], [["a"], []], "Item 2 has no reference"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    hypotheses: list[str], references: list[list[str]], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        corpus_bleu(hypotheses, references)
