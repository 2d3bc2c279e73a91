"""Differences of scores that a report claims, or calls unresolved."""

from collections.abc import Iterator, Sequence

from spdf_keras.data.tasks.score_table import Score
from spdf_keras.report.content.cells import ABSENT, place_order, row, score_table
from spdf_keras.report.content.labels import TUNING, Labels, group_label
from spdf_keras.report.content.quantities import percent
from spdf_keras.report.page.document import Row, Table
from spdf_keras.report.runs.differences import Difference, score_difference
from spdf_keras.report.runs.groups import Group

_RESOLVED = "*"


def difference_table(groups: Sequence[Group], labels: Labels) -> Table | None:
    """The differences between the groups of one task and split, paired by seed.

    A sparse pre-training is compared with the dense one of the same model, and a
    fine-tuning that kept the masks with the dense one of the same pre-training.

    Returns:
        None if there is nothing to compare.
    """
    layout = score_table(groups[0].task, groups)
    rows = []
    for group, other in _pairs(groups):
        gaps = [score_difference(group, other, score.name) for score in layout.scores]
        if any(gaps):
            rows.append(_row(group, other, layout.scores, gaps, labels))
    if not rows:
        return None
    return Table(
        (
            *("Of", "less"),
            *(score.heading for score in layout.scores),
            "Pairs",
        ),
        tuple(rows),
        f"Differences, paired by seed: mean (95% interval); {_RESOLVED} excludes zero",
        text_columns=2,
    )


def _pairs(groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    for group in sorted(groups, key=place_order):
        for other in groups:
            if other.model != group.model:
                continue
            alike = other.variant == group.variant and other.sparsity == group.sparsity
            is_dense = other.sparsity == 0 and other.tuning == "dense"
            if group.tuning == "sparse" and other.tuning == "dense" and alike:
                yield group, other
            elif group.tuning == "dense" and group.sparsity and is_dense:
                yield group, other


def _row(
    group: Group,
    other: Group,
    scores: Sequence[Score],
    gaps: Sequence[Difference | None],
    labels: Labels,
) -> Row:
    counts = [gap.count for gap in gaps if gap]
    cells = (_cell(gap, score) for gap, score in zip(gaps, scores, strict=True))
    return row(
        f"{_name(group)}, {group_label(group, labels)}",
        _name(other) + (f"; {other.variant}" if other.variant else ""),
        *cells,
        str(max(counts)),
    )


def _name(group: Group) -> str:
    return f"{percent(group.sparsity)}, {TUNING[group.tuning]}"


def _cell(gap: Difference | None, score: Score) -> str:
    if gap is None:
        return ABSENT
    gap = gap.scaled(score.factor)
    form = f"+.{score.decimals}f"
    if gap.low is None or gap.high is None:
        return f"{gap.mean:{form}} (one pair)"
    mark = f" {_RESOLVED}" if gap.is_resolved else ""
    return f"{gap.mean:{form}} ({gap.low:{form}} to {gap.high:{form}}){mark}"
