"""Intervals over test inputs: against sacreBLEU's paired bootstrap, and refusals."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from spdf_keras.data.tasks.registry import get_task
from spdf_keras.evaluation.scores import score_task
from spdf_keras.report.runs.collect import collect
from spdf_keras.report.runs.differences import score_difference
from spdf_keras.report.runs.groups import evaluation_groups
from spdf_keras.report.runs.pairs import pairs
from spdf_keras.report.runs.resampling import resample
from spdf_keras.report.write import write_report

from .conftest import FakeRuns

INPUTS = 40
WORDS = "a cheap pub near the river serves good food and coffee to families".split()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a test set of E2E in which each input has two references."""
    rng = random.Random(0)
    folder = tmp_path / "data"
    (folder / "e2e").mkdir(parents=True)
    with (folder / "e2e" / "testset_w_refs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["mr", "ref"])
        for number in range(INPUTS):
            for _ in range(2):
                text = " ".join(rng.sample(WORDS, 8))
                writer.writerow([f"name[Place {number}]", f"Place {number} is {text}."])
    return folder


def outputs(data: Path, seed: int, errors: int) -> list[str]:
    """Texts that equal a reference, but for some words."""
    rng, texts = random.Random(seed), []
    for example in get_task("e2e").read(data, "test"):
        words = rng.choice(example.references).split()
        for _ in range(errors):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        texts.append(" ".join(words))
    return texts


def evaluated(
    runs: FakeRuns, data: Path, sparsity: float, seed: int, texts: list[str]
) -> Path:
    folder = runs.finetuned(f"s{sparsity}-{seed}", sparsity, seed)
    scores = score_task(get_task("e2e"), texts, get_task("e2e").read(data, "test"))
    file = runs.evaluated(folder, inputs=INPUTS, scores=scores.values)
    file.with_suffix(".txt").write_text("".join(f"{text}\n" for text in texts))
    return folder


def test_interval_and_p_are_those_of_the_paired_bootstrap_of_sacrebleu(
    runs: FakeRuns, data: Path
) -> None:
    ours = outputs(data, 1, 2), outputs(data, 2, 3)
    for sparsity, texts in zip((0.0, 0.75), ours, strict=True):
        evaluated(runs, data, sparsity, 0, texts)
    members = collect([runs.root])
    groups = evaluation_groups(members)
    ((group, other),) = pairs(groups)
    assert (group.sparsity, other.sparsity) == (0.75, 0.0)
    gap = score_difference(group, other, "bleu", resample(members, data))
    assert gap is not None and gap.seeds is None and gap.inputs is not None

    examples = get_task("e2e").read(data, "test")
    streams = [[example.references[k] for example in examples] for k in range(2)]
    metric = BLEU(lowercase=True, tokenize="13a", smooth_method="exp")
    named: Any = [("dense", ours[0]), ("sparse", ours[1])]
    test = PairedTest(named, {"BLEU": metric}, streams, test_type="bs")
    _, results = test()
    scores: Any = results["BLEU"]
    dense, sparse = scores
    assert 100 * gap.mean == pytest.approx(sparse.score - dense.score)
    assert gap.inputs.p == pytest.approx(sparse.p_value)

    rows = np.random.default_rng(12345).choice(INPUTS, (1000, INPUTS), replace=True)
    gaps = [
        metric.corpus_score(
            [ours[1][i] for i in draw], [[s[i] for i in draw] for s in streams]
        ).score
        - metric.corpus_score(
            [ours[0][i] for i in draw], [[s[i] for i in draw] for s in streams]
        ).score
        for draw in rows[:100]
    ]
    found = resample(members, data).scores
    own = found[2, "e2e", "test", "bleu"] - found[1, "e2e", "test", "bleu"]
    assert (100 * own[:100]).tolist() == pytest.approx(gaps, abs=1e-9)
    low, high = np.percentile(own, (2.5, 97.5))
    assert (gap.inputs.low, gap.inputs.high) == (low, high)


def test_seeds_are_averaged_inside_each_drawing(runs: FakeRuns, data: Path) -> None:
    for seed in (0, 1):
        for sparsity, errors in ((0.0, 1), (0.75, 4)):
            texts = outputs(data, 10 * seed + errors, errors)
            evaluated(runs, data, sparsity, seed, texts)
    members = collect([runs.root])
    resamples = resample(members, data)
    ((group, other),) = pairs(evaluation_groups(members))
    gap = score_difference(group, other, "bleu", resamples)
    assert gap is not None and gap.inputs is not None and gap.count == 2
    by_run = {key[0]: values for key, values in resamples.scores.items()}
    mean = [np.mean([by_run[r.number] for r in g.runs], axis=0) for g in (group, other)]
    ends = np.percentile(mean[0] - mean[1], (2.5, 97.5))
    assert (gap.inputs.low, gap.inputs.high) == pytest.approx(tuple(ends))
    assert gap.inputs.low < gap.mean < gap.inputs.high < 0


def test_a_report_has_both_intervals_and_a_program_reads_them(
    runs: FakeRuns, data: Path, tmp_path: Path, blank_pictures: None
) -> None:
    for seed in (0, 1, 2):
        for sparsity, errors in ((0.0, 1), (0.75, 4)):
            texts = outputs(data, 10 * seed + errors, errors)
            evaluated(runs, data, sparsity, seed, texts)
    done: list[tuple[int, int]] = []
    report = write_report(
        [runs.root],
        tmp_path / "report",
        data=data,
        tell=lambda *counts: done.append(counts),
    )
    assert done == [(n, 6) for n in range(1, 7)]
    document = json.loads(json.dumps(report.as_json()))
    (bleu,) = (d for d in document["differences"] if d["score"] == "bleu")
    assert bleu["resolved"] and bleu["count"] == 3
    assert bleu["of"]["sparsity"] == 0.75 and bleu["less"]["sparsity"] == 0.0
    for name in ("seeds", "inputs"):
        assert bleu[name]["low"] < bleu["mean"] < bleu[name]["high"] < 0
        assert bleu[name]["p"] < 0.05
    # The others are not drawn: NIST and CIDEr cannot be, METEOR takes long.
    others = [d for d in document["differences"] if d["score"] != "bleu"]
    assert others and all(d["inputs"] is None for d in others)
    text = report.markdown.read_text("utf-8")
    line = next(row for row in text.splitlines() if row.startswith("| 75%, dense"))
    low, high = (f"{100 * bleu['inputs'][end]:+.2f}" for end in ("low", "high"))
    assert f"| {low} to {high} |" in line and "| 95% over inputs |" in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("score", "data and outputs do not belong together"),
        ("file", "there is no file of outputs"),
        ("lines", f"it has 39 outputs and the data {INPUTS} inputs"),
        ("data", "No E2E test data"),
    ],
)
def test_what_does_not_belong_together_has_no_interval_and_a_reason(
    runs: FakeRuns, data: Path, tmp_path: Path, change: str, reason: str
) -> None:
    folder = evaluated(runs, data, 0.75, 0, outputs(data, 1, 1))
    evaluated(runs, data, 0.0, 0, outputs(data, 2, 1))
    file = folder / "evaluation" / "e2e_test.txt"
    if change == "score":
        record = json.loads(file.with_suffix(".json").read_text())
        record["scores"]["bleu"] += 1e-6
        file.with_suffix(".json").write_text(json.dumps(record))
    elif change == "file":
        file.unlink()
    elif change == "lines":
        file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    else:
        (data / "e2e" / "testset_w_refs.csv").unlink()
    resamples = resample(collect([runs.root]), data)
    (problem,) = resamples.problems
    assert reason in problem and problem.startswith("e2e, test: ")
    report = write_report([runs.root], tmp_path / "report", data=data)
    text = report.markdown.read_text("utf-8")
    assert "95% over inputs" not in text and reason in text.replace("\\", "")
