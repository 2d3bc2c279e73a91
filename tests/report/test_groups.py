import dataclasses
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdf_keras.config import Config, FinetuneConfig
from spdf_keras.report.content.cells import cell
from spdf_keras.report.content.labels import model_labels, run_numbers
from spdf_keras.report.content.quantities import number_ranges
from spdf_keras.report.runs.collect import collect
from spdf_keras.report.runs.groups import (
    Group,
    evaluation_groups,
    finetuning_groups,
    main_groups,
    pretraining_groups,
    without_losers,
)
from spdf_keras.report.runs.means import Summary, summarise

from .conftest import CONFIG, FakeRuns


def tuned(rate: float) -> Config:
    return dataclasses.replace(CONFIG, finetune=FinetuneConfig(learning_rate=rate))


def test_mean_and_deviation_of_three_seeds_by_hand(runs: FakeRuns) -> None:
    for seed, bleu in enumerate((0.66, 0.67, 0.71)):
        folder = runs.finetuned(f"s{seed}", 0.5, seed)
        runs.evaluated(folder, scores={"bleu": bleu})
    (group,) = evaluation_groups(collect([runs.root]))
    score = group.score("bleu")
    # mean 0.68; squared deviations 4, 1 and 9 e-4, over n - 1 = 2
    assert score is not None and score.count == 3
    assert score.mean == pytest.approx(0.68) and score.std == pytest.approx(7e-4**0.5)
    assert cell(score.scaled(100), 2) == "68.00 ± 2.65 (3)"


def test_one_seed_has_no_deviation() -> None:
    assert summarise([(0, 67.49)]) == Summary(67.49, None, 1)
    assert cell(Summary(67.49, None, 1), 2) == "67.49 ± - (1)"
    assert summarise([]) is None and summarise([(0, None)]) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6))
def test_a_summary_is_that_of_the_statistics_module(values: list[float]) -> None:
    summary = summarise(enumerate(values))
    assert summary is not None and summary.std is not None
    assert summary.mean == pytest.approx(statistics.fmean(values))
    assert summary.std == pytest.approx(statistics.stdev(values))


def test_two_finetunings_of_one_pretraining_are_one_seed(runs: FakeRuns) -> None:
    for name, bleu in (("a", 0.6), ("b", 0.7)):
        runs.evaluated(runs.finetuned(name, seed=0), scores={"bleu": bleu})
    (group,) = evaluation_groups(collect([runs.root]))
    score = group.score("bleu")
    assert score is not None and score.mean == pytest.approx(0.65)
    assert score.count == 1 and score.std is None and len(group.runs) == 2


def test_a_failed_score_does_not_count(runs: FakeRuns) -> None:
    for seed, nist in enumerate((8.0, None, 9.0)):
        folder = runs.finetuned(f"s{seed}", seed=seed)
        runs.evaluated(folder, scores={"bleu": 0.5, "nist": nist})
    (group,) = evaluation_groups(collect([runs.root]))
    score = group.score("nist")
    assert score is not None and (score.mean, score.count) == (8.5, 2)


def test_unlike_runs_are_never_mixed(runs: FakeRuns) -> None:
    for name, sparsity, masks in (
        *(("a", 0.0, "stripped"), ("b", 0.75, "stripped")),
        ("c", 0.75, "kept"),
    ):
        folder = runs.finetuned(name, sparsity, masks=masks)
        for split in ("test", "validation"):
            runs.evaluated(folder, split=split)
    groups = evaluation_groups(collect([runs.root]))
    assert [(g.split, g.sparsity, g.tuning) for g in groups] == [
        (split, *rest)
        for split in ("test", "validation")
        for rest in ((0.0, "dense"), (0.75, "dense"), (0.75, "sparse"))
    ]
    assert not any(group.variant for group in groups)


@pytest.mark.parametrize(
    ("fields", "variants"),
    [
        ({"decode": {"num_beams": 1}}, {"num_beams=1", "num_beams=10"}),
        ({"protocol": "other"}, {"protocol=other", "protocol=e2e-metrics"}),
        ({"inputs": 10}, {"inputs=10", "inputs=630"}),
    ],
)
def test_scores_of_unlike_conditions_are_apart_and_say_so(
    runs: FakeRuns, fields: dict[str, Any], variants: set[str]
) -> None:
    same: dict[str, Any] = {"decode": {"num_beams": 10, "batch_size": 1}}
    runs.evaluated(runs.finetuned("a", seed=0), **same)
    runs.evaluated(runs.finetuned("b", seed=1), **{**same, **fields})
    groups = evaluation_groups(collect([runs.root]))
    assert {group.variant for group in groups} == variants


def test_how_many_are_decoded_at_a_time_is_no_condition(runs: FakeRuns) -> None:
    for seed, size in enumerate((1, 32)):
        folder = runs.finetuned(f"s{seed}", seed=seed)
        runs.evaluated(folder, decode={"num_beams": 10, "batch_size": size})
    assert len(evaluation_groups(collect([runs.root]))) == 1


def test_a_grid_of_one_seed_is_apart_and_a_selection_per_seed_is_not(
    runs: FakeRuns,
) -> None:
    runs.evaluated(runs.finetuned("a", seed=0, config=tuned(1e-4)))
    runs.evaluated(runs.finetuned("b", seed=1, config=tuned(5e-5)))
    (selection,) = evaluation_groups(collect([runs.root]))
    assert selection.variant == "" and len(selection.runs) == 2
    runs.evaluated(runs.finetuned("c", seed=0, config=tuned(5e-5)))
    grid = evaluation_groups(collect([runs.root]))
    assert {(g.variant, len(g.runs)) for g in grid} == {
        ("learning_rate=0.0001", 1),
        ("learning_rate=5e-05", 2),
    }


def test_what_a_search_did_not_choose_is_told_by_the_test(runs: FakeRuns) -> None:
    for rate in (1e-4, 5e-5):
        folder = runs.finetuned(f"r{rate}", config=tuned(rate))
        runs.evaluated(folder, split="validation")
    runs.evaluated(runs.root / "r0.0001")
    runs.finetuned("other", 0.5)
    runs.pretrained("base")
    left = without_losers(collect([runs.root]))
    assert {run.folder.name for run in left} == {"r0.0001", "other", "base"}


def test_masks_of_a_dense_model_are_neither_kept_nor_stripped(runs: FakeRuns) -> None:
    for seed, keep in enumerate((False, True)):
        settings = FinetuneConfig(keep_masks=keep)
        config = dataclasses.replace(CONFIG, finetune=settings)
        folder = runs.finetuned(f"s{seed}", seed=seed, config=config, masks="kept")
        runs.evaluated(folder)
    (group,) = evaluation_groups(collect([runs.root]))
    assert group.tuning == "dense" and len(group.runs) == 2


def test_of_each_task_one_split_is_the_main_one(runs: FakeRuns) -> None:
    runs.evaluated(runs.finetuned("a"), split="validation")
    runs.evaluated(runs.finetuned("b", 0.5))
    runs.evaluated(runs.finetuned("c", task="dart"), "dart", "validation")
    main = main_groups(evaluation_groups(collect([runs.root])))
    assert [(g.task, g.split) for g in main] == [
        *(("e2e", "test"), ("dart", "validation"))
    ]


def test_pretrainings_of_other_recipes_are_apart(runs: FakeRuns) -> None:
    longer = dataclasses.replace(
        CONFIG, train=dataclasses.replace(CONFIG.train, learning_rate=1e-3)
    )
    runs.pretrained("a")
    runs.pretrained("b", seed=1)
    runs.pretrained("c", seed=2, config=longer)
    groups = pretraining_groups(collect([runs.root]))
    assert [(group.variant, run_numbers(group.runs)) for group in groups] == [
        ("learning_rate=0.0006", "1, 2"),
        ("learning_rate=0.001", "3"),
    ]


def test_tasks_come_in_the_order_of_the_paper(runs: FakeRuns) -> None:
    for task in ("own", "curation", "dart", "webnlg", "e2e"):
        runs.finetuned(task, task=task)
    groups: list[Group] = finetuning_groups(collect([runs.root]))
    assert [group.task for group in groups] == [
        *("e2e", "webnlg", "dart", "curation", "own")
    ]


def test_models_of_one_size_have_different_names(runs: FakeRuns) -> None:
    # As many parameters, spread over other heads.
    heads = dataclasses.replace(CONFIG.model, num_heads=4)
    runs.pretrained("a")
    runs.pretrained("b", config=dataclasses.replace(CONFIG, model=heads))
    names = set(model_labels(collect([runs.root])).values())
    assert names == {
        f"GPT, 8.1k (2 x 16, {heads} heads, 64 tokens, context 32)" for heads in (2, 4)
    }


def test_numbers_are_joined_to_ranges() -> None:
    assert number_ranges([]) == "" and number_ranges([2, 1]) == "1, 2"
    assert number_ranges([9, 3, 2, 1, 3]) == "1-3, 9"
