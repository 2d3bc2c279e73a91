import gzip
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras.errors import InputError
from spdf_keras.metrics.archives import official_file
from spdf_keras.metrics.meteor import corpus_meteor

CASES = {
    "dart_official_bart": "",
    "e2e_dev_template": ".ptb",
    "e2e_dev_truncated": ".ptb",
    "e2e_example10": ".ptb",
    "e2e_lora_lastref": ".ptb",
    "e2e_mini_emptyhyp": ".ptb",
    "e2e_mini_identity": ".ptb",
    "e2e_mini_long": ".ptb",
    "e2e_mini_no4gram": ".ptb",
    "e2e_mini_nomatch": ".ptb",
    "e2e_mini_short": ".ptb",
    "e2e_test_sheff2": ".ptb",
    "e2e_test_tgen": ".ptb",
    "e2e_test_zhaw2": ".ptb",
    "e2e_tgen_shuffled": ".ptb",
    "e2e_tiny": ".ptb",
    "generation_eval_example": ".nltk",
    "lora_dart_bart": ".nltk",
    "lora_webnlg_melbourne": ".nltk",
    "tiny_text": "",
    "webnlg2017_adapt": "",
    "webnlg2017_tilburg_nmt": "",
    "webnlg2017_upf": "",
}
QUICK = ["e2e_example10", "e2e_tiny", "tiny_text"]
QUICK += [case for case in CASES if case.startswith("e2e_mini")]

# Sums are added up in the official order, but Java's power function is its own.
EQUAL = 1e-12


def read_lines(file: Path) -> list[str]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return stream.read().split("\n")


@cache
def read_case(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Reads what the jar was given: tokenised, and filled up with ""."""
    kind = CASES[folder.name]
    hypotheses = read_lines(folder / f"hypotheses{kind}.txt.gz")
    if kind == ".ptb":
        plain = read_lines(folder / "references.txt.gz")
        items: list[list[str]] = [[]]
        tokens = read_lines(folder / "references.ptb.txt.gz")
        for line, text in zip(plain, tokens, strict=True):
            if line:
                items[-1].append(text)
            elif items[-1]:
                items.append([])
        references = [texts for texts in items if texts]
    else:
        files = sorted(folder.glob(f"reference?{kind}.txt.gz"))
        columns = [read_lines(file) for file in files]
        references = [list(texts) for texts in zip(*columns, strict=True)]
    while len(hypotheses) > len(references) and not hypotheses[-1]:
        hypotheses.pop()
    if not any(references[-1]) and not hypotheses[-1]:
        hypotheses, references = hypotheses[:-1], references[:-1]
    return hypotheses, references


def official_score(folder: Path) -> float:
    scores = json.loads((folder / "scores.json").read_text("utf-8"))["scores"]
    found = scores.get("coco_caption", scores.get("all"))["METEOR"]
    return float(found["score"] if isinstance(found, dict) else found)


def official_segments(folder: Path) -> list[float]:
    rows = [line.split("\t") for line in read_lines(folder / "segments.tsv.gz")]
    if "METEOR" not in rows[0]:
        return []
    column = rows[0].index("METEOR")
    return [float(row[column]) for row in rows[1:] if row[column]]


@pytest.mark.parametrize(
    "case",
    [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES],
)
def test_corpus_and_segments_equal_the_official_ones(
    real_data: Path, case: str
) -> None:
    folder = real_data / "scorer_cases" / case
    result = corpus_meteor(*read_case(folder))
    assert result.score == pytest.approx(official_score(folder), abs=EQUAL)
    segments = official_segments(folder)
    if segments:
        assert result.segments == pytest.approx(segments, abs=EQUAL)


@pytest.mark.parametrize(
    "case", [c for c, kind in CASES.items() if c not in QUICK and kind != ".nltk"]
)
def test_a_sample_of_segments_equals_the_official_ones(
    real_data: Path, case: str
) -> None:
    folder = real_data / "scorer_cases" / case
    hypotheses, references = read_case(folder)
    result = corpus_meteor(hypotheses[::20], references[::20])
    expected = official_segments(folder)[::20]
    assert result.segments == pytest.approx(expected, abs=EQUAL)


def test_precision_recall_and_penalty_equal_the_official_ones(real_data: Path) -> None:
    folder = real_data / "scorer_cases" / "tiny_text"
    official = json.loads((folder / "scores.json").read_text("utf-8"))
    expected = official["scores"]["all"]["METEOR"]
    result = corpus_meteor(*read_case(folder))
    assert result.precision == pytest.approx(expected["precision"], abs=EQUAL)
    assert result.recall == pytest.approx(expected["recall"], abs=EQUAL)
    penalty = expected["fragmentation_penalty"]
    assert result.fragmentation_penalty == pytest.approx(penalty, abs=EQUAL)


def by_hand(precision: float, recall: float, fragmentation: float) -> float:
    mean = 1 / (0.15 / precision + 0.85 / recall)
    return mean * (1 - 0.6 * fragmentation**0.2)


def test_a_score_by_hand() -> None:
    # All but "on" are content words, which count 0.75 to 0.25. Matched are "cat sat"
    # and "mat": two chunks of three words.
    result = corpus_meteor(["red cat sat near mat"], [["cat sat on mat"]])
    precision, recall = 3 * 0.75 / (5 * 0.75), 3 * 0.75 / (3 * 0.75 + 0.25)
    assert result.precision == pytest.approx(precision, abs=EQUAL)
    assert result.recall == pytest.approx(recall, abs=EQUAL)
    assert result.score == pytest.approx(by_hand(precision, recall, 2 / 3), abs=EQUAL)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "precision"),
    [
        # Content words count 0.75; "the", "on", "a" and "there" count 0.25.
        ("the cats sat on mat", "the cat sat on mat", (1.5 + 0.6 * 0.75 + 0.5) / 2.75),
        ("a cheap pub there", "a inexpensive pub there", (0.75 + 0.8 * 0.75 + 0.5) / 2),
        ("they met again", "they met once more", (0.75 + 0.6 * 0.75 + 0.25) / 1.75),
    ],
    ids=["stem", "synonym", "paraphrase"],
)
def test_words_that_are_not_equal_count_less(
    hypothesis: str, reference: str, precision: float
) -> None:
    result = corpus_meteor([hypothesis], [[reference]])
    assert result.precision == pytest.approx(precision, abs=EQUAL)
    assert result.fragmentation_penalty == 0


def test_a_phrase_has_the_length_it_has_on_each_side() -> None:
    result = corpus_meteor(["they met again"], [["they met once more"]])
    # Function words: "they" and "more".
    recall = (0.75 + 0.6 * 0.75 + 0.25 + 0.6 * 0.25) / 2
    assert result.recall == pytest.approx(recall, abs=EQUAL)


def test_a_lone_match_that_is_not_exact_and_not_the_only_one_is_left_out() -> None:
    # These words match by stem, synonym and phrase, but score 0: the official search
    # rounds half words down, and a chunk has a cost.
    assert corpus_meteor(["restaurants"], [["restaurant"]]).score == 0


def test_equal_texts_score_one_and_add_no_chunk_to_the_corpus() -> None:
    assert corpus_meteor(["a b c"], [["A B C"]]).score == 1
    result = corpus_meteor(["a b c", "dog"], [["a b c"], ["cat"]])
    assert result.segments == [1, 0]
    assert result.fragmentation_penalty == 0


@pytest.mark.parametrize(
    ("hypothesis", "reference"),
    [("", "a cat"), ("a cat", ""), ("", ""), ("dog", "cat sat"), (" \t", "\u00a0")],
)
def test_without_a_match_the_score_is_zero(hypothesis: str, reference: str) -> None:
    result = corpus_meteor([hypothesis], [[reference]])
    assert result.score == 0 and result.segments == [0]
    assert result.fragmentation_penalty == 0


def test_the_best_reference_counts_and_empty_ones_do_not() -> None:
    texts = ["a cat sat here", "the cat sat on a mat", "dogs"]
    scores = [corpus_meteor(["a cat sat there"], [[text]]).score for text in texts]
    filled = corpus_meteor(["a cat sat there"], [[*texts, "", ""]])
    assert filled.score == max(scores)


def test_the_corpus_score_is_not_the_mean_of_its_segments() -> None:
    result = corpus_meteor(["a cat", "dog"], [["a cat"], ["two mice ran away"]])
    assert result.segments == [1, 0]
    assert 0 < result.score < 0.4


def test_words_are_compared_by_the_hash_of_java() -> None:
    assert corpus_meteor(["20"], [["0n"]]).score == 1


WORDS = st.sampled_from("the a cat cats sat on in mat it 's £ 20 , . big large".split())
TEXTS = st.lists(WORDS, max_size=12).map(" ".join)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1)), min_size=1, max_size=4))
def test_scores_are_bounded_and_another_reference_never_harms(
    items: list[tuple[str, list[str]]],
) -> None:
    hypotheses = [hypothesis for hypothesis, _ in items]
    references = [texts for _, texts in items]
    result = corpus_meteor(hypotheses, references)
    for value in (result.score, result.precision, result.recall, *result.segments):
        assert 0 <= value <= 1
    fewer = corpus_meteor(hypotheses, [texts[:1] for texts in references])
    for more, less in zip(result.segments, fewer.segments, strict=True):
        assert more >= less


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
        corpus_meteor(hypotheses, references)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="the reference is a Java program")
def test_shuffled_and_repeated_words_score_as_by_the_java_program(
    real_data: Path, tmp_path: Path
) -> None:
    folder = real_data / "scorer_cases" / "webnlg2017_tilburg_nmt"
    hypotheses, references = read_case(folder)
    items = [text.split() for text in hypotheses[::9]]
    texts = [" ".join(words[::2] + words[::-1]) for words in items]
    texts += [" ".join(words * 3) for words in items]
    targets = [texts[0] for texts in references[::9]] * 2
    (tmp_path / "h").write_text("\n".join(texts) + "\n", "utf-8")
    (tmp_path / "r").write_text("\n".join(targets) + "\n", "utf-8")
    jar = str(official_file("meteor/meteor-1.5.jar"))
    command = ["java", "-Xmx2G", "-jar", jar, "h", "r"]
    command += ["-l", "en", "-norm"]
    run = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path)
    lines = run.stdout.decode().split("\n")
    rows = [line.split("\t") for line in lines if line.startswith("Segment")]
    expected = [float(row[1]) for row in rows]
    result = corpus_meteor(texts, [[text] for text in targets])
    assert result.segments == pytest.approx(expected, abs=EQUAL)
