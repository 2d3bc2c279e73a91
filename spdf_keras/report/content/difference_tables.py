"""Differences that a report claims, or calls unresolved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spdf_keras.data.tasks.score_table import Score
from spdf_keras.report.content.cells import ABSENT, place_order, row, score_table
from spdf_keras.report.content.labels import TUNING, Labels, group_label
from spdf_keras.report.content.quantities import percent
from spdf_keras.report.page.document import Row, Table
from spdf_keras.report.runs.differences import (
    Difference,
    Interval,
    run_difference,
    score_difference,
)
from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.pairs import pairs
from spdf_keras.report.runs.resampling import Resamples

RESOLVED = "*"
INPUTS_TITLE = "95% over inputs"
LOSS = Score("validation_loss", "Validation loss", higher_is_better=False, decimals=3)
TUNED_LOSS = Score("tuned", "Fine-tuning loss", higher_is_better=False, decimals=3)


@dataclass(frozen=True)
class Comparison:
    """Two groups, and the differences of some of their numbers."""

    group: Group
    other: Group
    differences: tuple[tuple[Score, Difference], ...]


def score_comparisons(
    groups: Sequence[Group], resamples: Resamples
) -> list[Comparison]:
    """Compares scores and losses of one task and split, paired by seed.

    The loss of fine-tuning is that of the best epoch, on the validation split. It
    varies less between seeds than scores of outputs do.
    """
    scores = score_table(groups[0].task, groups).scores
    return _comparisons(
        groups,
        [*scores, TUNED_LOSS],
        lambda group, other, score: group_difference(group, other, score, resamples),
    )


def group_difference(
    group: Group, other: Group, score: Score, resamples: Resamples
) -> Difference | None:
    """Compares a score of two groups of evaluations, or their `TUNED_LOSS`.

    Two groups of pre-trainings have their `LOSS` alone.
    """
    if score is LOSS:
        return run_difference(group, other, lambda run: run.validation.last)
    if score is TUNED_LOSS:
        return run_difference(group, other, lambda run: run.validation.best)
    return score_difference(group, other, score.name, resamples)


def loss_comparisons(pretraining: Sequence[Group]) -> list[Comparison]:
    """Compares the validation losses of pre-trainings, paired by seed."""
    return _comparisons(
        pretraining,
        [LOSS],
        lambda group, other, loss: group_difference(group, other, loss, Resamples()),
    )


def _comparisons(
    groups: Sequence[Group],
    scores: Sequence[Score],
    compare: Callable[[Group, Group, Score], Difference | None],
) -> list[Comparison]:
    found = []
    for group, other in pairs(sorted(groups, key=place_order)):
        gaps = [(score, compare(group, other, score)) for score in scores]
        known = tuple((score, gap) for score, gap in gaps if gap)
        if known:
            found.append(Comparison(group, other, known))
    return found


def comparison_table(
    comparisons: Sequence[Comparison], labels: Labels, caption: str = "Differences"
) -> Table | None:
    """A row per difference, with its intervals and tests.

    Returns:
        None if there is nothing to compare.
    """
    gaps = [gap for one in comparisons for _, gap in one.differences]
    if not gaps:
        return None
    has_inputs = any(gap.inputs for gap in gaps)
    rows = []
    for comparison in comparisons:
        names = (_name(comparison.group, labels), _name(comparison.other, labels))
        for score, gap in comparison.differences:
            rows.append(_row(names, score, gap, has_inputs))
            names = ("", "")
    return Table(
        (
            *("Of", "less", "Score", "Difference", "95% over seeds", "p"),
            *((INPUTS_TITLE, "p") if has_inputs else ()),
            "Pairs",
        ),
        tuple(rows),
        f"{caption}, paired by seed; {RESOLVED} no interval includes zero",
        text_columns=3,
    )


def _row(
    names: tuple[str, str], score: Score, gap: Difference, has_inputs: bool
) -> Row:
    gap = gap.scaled(score.factor)
    mark = f" {RESOLVED}" if gap.is_resolved else ""
    return row(
        *names,
        score.heading,
        f"{gap.mean:+.{score.decimals}f}{mark}",
        *_interval(gap.seeds, score),
        *(_interval(gap.inputs, score) if has_inputs else ()),
        str(gap.count),
    )


def _interval(interval: Interval | None, score: Score) -> tuple[str, str]:
    if interval is None:
        return ABSENT, ABSENT
    form = f"+.{score.decimals}f"
    p = f"{interval.p:.3f}" if interval.p >= 0.0005 else "<0.001"
    return f"{interval.low:{form}} to {interval.high:{form}}", p


def _name(group: Group, labels: Labels) -> str:
    tuning = "" if group.tuning == "none" else f", {TUNING[group.tuning]}"
    return f"{percent(group.sparsity)}{tuning}: {group_label(group, labels)}"
