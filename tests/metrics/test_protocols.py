"""Every case against the scores that the official programs gave it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.data.tasks.references import read_lines
from spdf_keras.data.tasks.webnlg import read_webnlg
from spdf_keras.errors import InputError
from spdf_keras.metrics.protocols import (
    PROTOCOLS,
    Scores,
    prepare_lora,
    score,
)

# METEOR's program computes powers in its own way; other scores are the same sums.
METEOR = 1e-6
EQUAL = 1e-9

QUICK = ["e2e_tiny", "e2e_example10", "tiny_text"]
QUICK += [f"e2e_mini_{n}" for n in ("emptyhyp", "identity", "long", "no4gram")]
QUICK += [f"e2e_mini_{n}" for n in ("nomatch", "short")]
SLOW = ["e2e_dev_template", "e2e_dev_truncated", "e2e_lora_lastref"]
SLOW += ["e2e_test_sheff2", "e2e_test_tgen", "e2e_test_zhaw2", "e2e_tgen_shuffled"]
SLOW += ["webnlg2017_adapt", "webnlg2017_tilburg_nmt", "webnlg2017_upf"]
SLOW += ["generation_eval_example", "lora_dart_bart", "lora_webnlg_melbourne"]
SLOW += ["dart_official_bart"]

ReadCase = Callable[..., Any]


def check_e2e(found: Scores, official: dict[str, Any]) -> None:
    perl, python = official["mteval_v13a_perl"], official["pymteval"]
    expected = {
        "bleu": perl["BLEU"],
        "nist": python["NIST"],
        "nist_perl": perl["NIST"],
        "bleu_pymteval": python["BLEU"],
        "rouge_l": official["coco_caption"]["ROUGE_L"],
        "cider": official["coco_caption"]["CIDEr"],
    }
    for name, value in expected.items():
        if isinstance(value, str):  # "error: ..."
            assert found.values[name] is None and found.errors[name]
        else:
            assert found.values[name] == pytest.approx(value, rel=EQUAL, abs=1e-12)
            assert name not in found.errors
    meteor = official["coco_caption"]["METEOR"]
    assert found.values["meteor"] == pytest.approx(meteor, abs=METEOR)


def check_others(found: Scores, official: dict[str, Any], own_ter: str) -> None:
    assert found.items == official["n"] and not found.errors
    assert found.values["bleu"] == pytest.approx(official["BLEU"]["full"], EQUAL)
    meteor = official["METEOR"]
    meteor = meteor if isinstance(meteor, float) else meteor["score"]
    assert found.values["meteor"] == pytest.approx(meteor, abs=METEOR)
    if "TER" in official:
        expected = official["TER"]["score"]
        assert found.values["ter_tercom"] == pytest.approx(expected, EQUAL)
    if "TER_pyter_mean" in official:
        expected = official["TER_pyter_mean"]
        assert found.values["ter_pyter"] == pytest.approx(expected, EQUAL)
    assert found.values["ter"] == found.values[own_ter]


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_a_case_equals_its_official_scores(read_case: ReadCase, name: str) -> None:
    case = read_case(name)
    # `tiny` is WebNLG's chain on fewer references.
    protocol = "webnlg-2017" if case.protocol == "tiny" else case.protocol
    found = score(protocol, case.hypotheses, case.references, case.parts)
    assert (found.protocol, found.items) == (protocol, len(case.hypotheses))
    assert list(found.values) == list(PROTOCOLS[protocol].measures)
    if protocol == "e2e-metrics":
        check_e2e(found, case.scores)
        return
    own_ter = "ter_pyter" if protocol == "generation-eval" else "ter_tercom"
    assert set(found.parts) == set(case.scores) - {"all"}
    for part, official in case.scores.items():
        check_others(found if part == "all" else found.parts[part], official, own_ter)


def test_segments_are_those_of_coco_caption(read_case: ReadCase) -> None:
    case = read_case("e2e_tiny")
    found = score("e2e-metrics", case.hypotheses, case.references).segments
    official = case.segments
    assert found["rouge_l"] == pytest.approx(official["ROUGE_L"], abs=1e-12)
    assert found["cider"] == pytest.approx(official["CIDEr"], abs=1e-12)
    assert found["meteor"] == pytest.approx(official["METEOR"], abs=METEOR)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_part_is_scored_as_a_case_of_its_own(protocol: str) -> None:
    hypotheses = ["a pub near the river .", "cheap food", "The Eagle is a pub ."]
    references = [["a pub by the river .", "x"], ["cheap food here"], ["A pub ."]]
    found = score(protocol, hypotheses, references, ["b", "a", "b"])
    assert {part: some.items for part, some in found.parts.items()} == {"b": 2, "a": 1}
    padded = [texts + [""] * (2 - len(texts)) for texts in references]
    for part, rows in (("a", [1]), ("b", [0, 2])):
        alone = score(
            protocol, [hypotheses[i] for i in rows], [padded[i] for i in rows]
        )
        assert found.parts[part].values == pytest.approx(alone.values)
        assert found.parts[part].errors == alone.errors


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_an_official_program_cannot_score_has_a_sentence(protocol: str) -> None:
    found = score(protocol, [""], [["a pub"]])
    undefined = [name for name, value in found.values.items() if value is None]
    assert undefined == list(found.errors) == ["nist" if "e2e" in protocol else "bleu"]
    assert "has no value: " in found.errors[undefined[0]]


def test_an_empty_reference_is_a_missing_one() -> None:
    texts = ["a pub near here"]
    one = score("webnlg-2017", texts, [["a pub near here"]])
    two = score("webnlg-2017", texts, [["", "a pub near here", " "]])
    assert one.values["ter"] == two.values["ter"] == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_no_break_space_is_a_reference_where_the_program_reads_bytes(
    protocol: str,
) -> None:
    text = "a pub near here"
    with_it = score(protocol, [text], [[text, "\u00a0"]]).values
    assert with_it["meteor"] == score(protocol, [text], [[text]]).values["meteor"]
    if protocol == "e2e-metrics":
        assert with_it == score(protocol, [text], [[text]]).values
    else:  # two references of 4 words and of 1: tercom divides by their mean
        short = score(protocol, ["a pub"], [[text, "\u00a0"]]).values
        assert short["ter_tercom"] == 2 / 2.5


def test_generation_eval_equals_the_scripts_at_a_no_break_space() -> None:
    pub = "The pub is at{}the river side and it is cheap ."
    hypotheses = [pub.format("\u00a0"), "Aromi is a coffee shop ."]
    references = [[pub.format(" ")], ["Aromi is a coffee shop ."]]
    found = score("generation-eval", hypotheses, references, ["a", "b"])
    # BLEU by multi-bleu-detok.perl, METEOR by meteor-1.5.jar; NLTK splits the words.
    assert found.values["bleu"] == pytest.approx(74.9505035616, 1e-11)
    assert (found.values["meteor"], found.values["ter_pyter"]) == (1, 0)
    # The white space of tercom is Java's: one substitution and one deletion.
    assert found.parts["a"].values["ter_tercom"] == pytest.approx(2 / 12)
    assert found.parts["b"].values["bleu"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("bleu", ["a"], [["a"]]), "Unknown protocol 'bleu'. Known here: e2e-metrics"),
        (("dart", ["a"], [["a"], ["b"]]), "1 hypotheses for 2 items"),
        (("dart", ["a"], [[" "]]), "Item 1 has no reference"),
        (("dart", [], []), "nothing to score"),
        (("dart", ["a"], [["a"]], ["x", "y"]), "2 parts for 1 items"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    arguments: tuple[Any, ...], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        score(*arguments)


def test_texts_are_prepared_as_lora_does(real_data: Path) -> None:
    folder = real_data / "scorer_cases" / "lora_webnlg_melbourne"
    files = [read_lines(folder / f"reference{i}.txt.gz") for i in range(6)]
    examples = read_webnlg(real_data / "webnlg", "test")
    references = [example.references for example in examples]
    _, prepared = prepare_lora([""] * len(references), references)
    assert prepared == [list(texts) for texts in zip(*files, strict=True)]


def test_preparing_cuts_splits_and_fills_up() -> None:
    raw = "It's 1.5\u00a0km (A_b).<|endoftext|>more"
    hypotheses, references = prepare_lora([raw, "a\n\nb"], [["X"], [*"abcdefgh"]])
    assert hypotheses == ["it ' s 1 . 5 km ( a_b ) .", "a"]
    assert references == [["x"] * 6, [*"abcdef"]]
