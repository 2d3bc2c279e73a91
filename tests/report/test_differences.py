"""Differences between groups: their intervals, and which are called resolved."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from spdf_keras.report.runs.differences import Interval, change, difference
from spdf_keras.report.write import write_report

from .conftest import FakeRuns


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_intervals_and_probabilities_are_those_of_the_paired_t_test(count: int) -> None:
    rng = np.random.default_rng(count)
    own, others = rng.normal(1.0, 0.5, count), rng.normal(0.7, 0.5, count)
    found = difference(enumerate(own.tolist()), enumerate(others.tolist()))
    assert found is not None and found.count == count
    right = stats.ttest_rel(own, others)
    interval = right.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(own - others))
    assert found.seeds is not None
    assert (found.seeds.low, found.seeds.high) == pytest.approx(tuple(interval))
    assert found.seeds.p == pytest.approx(right.pvalue)
    assert found.is_resolved == (right.pvalue < 0.05)


@pytest.mark.parametrize("counts", [(5, 3), (2, 2), (4, 9)])
def test_a_change_between_models_is_that_of_welchs_test(
    counts: tuple[int, int],
) -> None:
    rng = np.random.default_rng(sum(counts))
    gaps = [rng.normal(0.2, 0.1 * count, count) for count in counts]
    large, small = (
        difference(enumerate(g), [(s, 0.0) for s in range(9)]) for g in gaps
    )
    assert large is not None and small is not None
    found = change(large, small)
    assert found is not None and found.count == min(counts)
    right = stats.ttest_ind(*gaps, equal_var=False)
    interval = right.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(gaps[0]) - np.mean(gaps[1]))
    assert found.seeds is not None
    assert (found.seeds.low, found.seeds.high) == pytest.approx(tuple(interval))
    assert found.seeds.p == pytest.approx(right.pvalue)
    scaled = change(large.scaled(100), small.scaled(100))
    assert scaled is not None and scaled.mean == pytest.approx(100 * found.mean)


def test_a_change_needs_two_seeds_of_both() -> None:
    one = difference([(0, 1.0)], [(0, 0.5)])
    two = difference([(0, 1.0), (1, 1.0)], [(0, 0.5), (1, 0.5)])
    assert one is not None and two is not None
    assert change(one, two) is None and change(two, one) is None
    none = change(two, two)
    assert none is not None and not none.is_resolved


def test_pairs_are_those_of_seeds_that_both_have() -> None:
    own = [(0, 3.0), (0, 5.0), (1, 6.0), (2, None), (3, 1.0)]
    others = [(0, 1.0), (1, 2.0), (2, 2.0), (4, 9.0)]
    found = difference(own, others)
    assert found is not None and found.count == 2
    assert found.mean == pytest.approx((3 + 4) / 2)
    single = difference(own[:1], others)
    assert single is not None and single.seeds is None and not single.is_resolved
    assert difference([(0, 1.0)], [(1, 1.0)]) is None


def test_equal_differences_have_an_interval_without_width() -> None:
    found = difference([(0, 1.0), (1, 2.0)], [(0, 0.5), (1, 1.5)])
    assert found is not None and found.seeds == Interval(0.5, 0.5, 0.0)
    assert found.is_resolved
    same = difference([(0, 1.0), (1, 2.0)], [(0, 1.0), (1, 2.0)])
    assert same is not None and not same.is_resolved
    assert same.seeds == Interval(0.0, 0.0, 1.0)


def test_a_report_compares_sparse_pre_training_with_dense(
    runs: FakeRuns, tmp_path: Path
) -> None:
    bleu = {0.0: (0.70, 0.71, 0.69), 0.75: (0.60, 0.62, 0.59)}
    folders = []
    for sparsity, values in bleu.items():
        for seed, value in enumerate(values):
            for masks in ("stripped", "kept") if sparsity else ("stripped",):
                name = f"{sparsity}-{seed}-{masks}"
                folder = runs.finetuned(name, sparsity, seed, masks=masks)
                loss = 0.05 if masks == "kept" else 0.0
                runs.evaluated(folder, "e2e", scores={"bleu": value - loss})
                folders.append(folder)
    write_report(folders, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text("utf-8")
    table = text.partition("Differences, paired by seed")[2].partition("\n\n#")[0]
    gaps = 100 * (np.array(bleu[0.75]) - np.array(bleu[0.0]))
    reach = stats.t.ppf(0.975, 2) * np.std(gaps, ddof=1) / math.sqrt(3)
    low, high = gaps.mean() - reach, gaps.mean() + reach
    cells = f"{gaps.mean():+.2f} * | {low:+.2f} to {high:+.2f}"
    line = next(row for row in table.splitlines() if row.startswith("| 75%, dense"))
    assert cells in line.replace("\\", "") and "| 0%, dense" in line
    kept = next(row for row in table.splitlines() if row.startswith("| 75%, sparse"))
    assert "-5.00 to -5.00" in kept and "| 75%, dense" in kept
    assert (tmp_path / "report" / "cost-e2e-test.png").is_file()
