"""The numbers of a report for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from spdf_keras.report.content.difference_tables import (
    Comparison,
    loss_comparisons,
    score_comparisons,
)
from spdf_keras.report.content.labels import Labels, model_labels
from spdf_keras.report.runs.groups import (
    Group,
    by_task_and_split,
    evaluation_groups,
    pretraining_groups,
)
from spdf_keras.report.runs.records import RunRecord
from spdf_keras.report.runs.resampling import Resamples

_GROUP = ("task", "split", "sparsity", "tuning", "variant")


def numbers(runs: Sequence[RunRecord], resamples: Resamples) -> dict[str, Any]:
    """Every mean and every difference, in the unit of its scorer."""
    labels, evaluations = model_labels(runs), evaluation_groups(runs)
    comparisons = loss_comparisons(pretraining_groups(runs))
    for groups in by_task_and_split(evaluations):
        comparisons += score_comparisons(groups, resamples)
    return {
        "scores": [
            {
                **_place(group, labels),
                "all": _scores(group, ""),
                **{part: _scores(group, part) for part in group.parts},
            }
            for group in evaluations
        ],
        "differences": [
            difference
            for one in comparisons
            for difference in _differences(one, labels)
        ],
    }


def _place(group: Group, labels: Labels) -> dict[str, Any]:
    return {
        "model": labels[group.model],
        **{key: getattr(group, key) for key in _GROUP},
        "runs": [run.number for run in group.runs],
    }


def _scores(group: Group, part: str) -> dict[str, Any]:
    summaries = {name: group.score(name, part) for name in group.score_names}
    return {name: asdict(summary) for name, summary in summaries.items() if summary}


def _differences(comparison: Comparison, labels: Labels) -> list[dict[str, Any]]:
    return [
        {
            "of": _place(comparison.group, labels),
            "less": _place(comparison.other, labels),
            "score": score.name,
            **asdict(gap),
            "resolved": gap.is_resolved,
        }
        for score, gap in comparison.differences
    ]
