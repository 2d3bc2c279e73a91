"""The table of each run's numbers, read by Python's `csv` alone."""

import csv
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from spdf_keras.report.write import write_report

from .conftest import FakeRuns

pytestmark = pytest.mark.usefixtures("blank_pictures")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_means_of_a_report_follow_from_the_table(
    study: Path, tmp_path: Path
) -> None:
    report = write_report([study], tmp_path)
    found = defaultdict(list)
    place = ("model", "task", "split", "sparsity", "tuning", "variant")
    for row in rows(report.table):
        for name in ("bleu", "ter"):
            if row[name] and not row["part"]:
                found[*(row[key] for key in place), name].append(float(row[name]))
    groups = report.as_json()["scores"]
    assert groups
    for group in groups:
        for name in {"bleu", "ter"} & group["all"].keys():
            values = found.pop((*(str(group[key]) for key in place), name))
            summary = group["all"][name]
            assert summary["mean"] == pytest.approx(statistics.fmean(values))
            assert summary["count"] == len(values)
            if len(values) > 1:
                assert summary["std"] == pytest.approx(statistics.stdev(values))
    assert not found


def test_a_run_has_its_seeds_losses_and_parts(runs: FakeRuns, tmp_path: Path) -> None:
    pretrained = runs.pretrained("p", 0.5, seed=3)
    folder = runs.finetuned("f", 0.5, seed=3, task="webnlg", masks="kept")
    runs.evaluated(folder, "webnlg", parts={"seen": {"bleu": 61.0}})
    first, whole, seen = rows(write_report([pretrained, folder], tmp_path).table)
    assert [row["folder"] for row in (first, whole, seen)] == ["p", "f", "f"]
    assert (first["tuning"], first["split"]) == ("none", "")
    assert (first["seed"], first["mask_seed"]) == ("3", "3")
    assert float(first["pretraining_loss"]) == pytest.approx(4.7)
    assert first["finetuning_loss"] == first["bleu"] == ""
    assert (whole["tuning"], whole["part"], float(whole["bleu"])) == ("sparse", "", 60)
    assert float(whole["finetuning_loss"]) == pytest.approx(2.0)
    assert (seen["part"], float(seen["bleu"]), seen["ter"]) == ("seen", 61, "")


def test_a_score_that_is_named_as_a_column_has_another_one(
    runs: FakeRuns, tmp_path: Path
) -> None:
    folder = runs.finetuned("f", 0.5, task="own", seed=2)
    runs.evaluated(folder, "own", scores={"seed": 7.5, "accuracy": None})
    (row,) = rows(write_report([folder], tmp_path).table)
    assert (row["seed"], row["score_seed"], row["accuracy"]) == ("2", "7.5", "")
