"""What a report says of pre-trainings whose masks change."""

import dataclasses
import re
from pathlib import Path

import pytest

from spdf_keras.config import SparsityConfig
from spdf_keras.flops import training_flops
from spdf_keras.report.runs.reader import read_run
from spdf_keras.report.write import write_report

from .conftest import CONFIG, SIZES, FakeRuns

OPENS = dataclasses.replace(
    CONFIG,
    sparsity=SparsityConfig(
        0.75, method="redense", stages=(0.5, 0.0), shares=(0.5, 0.75)
    ),
)


def test_operations_follow_the_density_over_the_steps(runs: FakeRuns) -> None:
    # 20 steps at 75 %, 10 at 50 %, 10 without zeros.
    average = (20 * 0.75 + 10 * 0.5) / 40
    record = read_run(runs.pretrained("opens", 0.75, config=OPENS), "opens")
    assert record.mean_sparsity == pytest.approx(average)
    expected = 40 * 4 * training_flops(SIZES, 32, average)
    assert record.total_flops == pytest.approx(expected)
    assert record.origin.flops == pytest.approx(expected)
    # A run that has come to step 30 has done no dense step.
    half = read_run(runs.pretrained("half", 0.75, config=OPENS, steps=30), "half")
    assert half.mean_sparsity == pytest.approx((20 * 0.75 + 10 * 0.5) / 30)


def test_methods_are_told_apart_and_their_masks_are_drawn(
    runs: FakeRuns, tmp_path: Path
) -> None:
    opens = runs.pretrained("opens", 0.75, config=OPENS)
    for step, density in ((21, 0.5), (31, 1.0)):
        runs.log(opens, step=step, mask_density=density, mask_turnover=0.0)
    static = runs.pretrained("static", 0.75)
    write_report([opens, static], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert "## Masks over the steps" in text
    assert (tmp_path / "report" / "masks-density-1.png").is_file()
    assert (tmp_path / "report" / "masks-turnover-1.png").is_file()
    table = text.partition("## Table 2")[2].partition("\n## ")[0]
    assert re.search(r"; redense\b", table)
    assert re.search(r"; static\b", table)
