"""The cells and rows that the tables of a report share."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.data.tasks.score_table import Score, ScoreTable
from spdf_keras.report.content.labels import paper_model
from spdf_keras.report.page.document import Row
from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.means import Summary

ABSENT = "-"
MEANS = "Mean ± standard deviation (seeds)"


def score_table(task: str, groups: Sequence[Group]) -> ScoreTable:
    """The layout of a task's table: the paper's, or a column for each score."""
    if task in TASKS:
        return TASKS[task].table
    names = dict.fromkeys(name for group in groups for name in group.score_names)
    return ScoreTable("", task, tuple(Score(name, name) for name in names))


def place_order(group: Group) -> tuple[float, float, str, str]:
    """Sorts rows: by size, sparsity, then way of fine-tuning."""
    sparsity = 2.0 if group.sparsity is None else group.sparsity
    return group.model.num_parameters, sparsity, group.tuning, group.variant


PrintedKey = tuple[str, float]


def beside(
    groups: Sequence[Group], keys: Iterable[PrintedKey], always: Sequence[str]
) -> list[Group | PrintedKey]:
    """Our groups in order; the paper's row follows the groups of the same model.

    The paper's other rows come last: rows of models that we have, and rows of the
    models in `always`, as a reference.
    """
    keys = list(keys)
    places: list[Group | PrintedKey] = []
    for key, together in groupby(sorted(groups, key=place_order), _printed_key):
        places += together
        if key in keys:
            places.append(key)
    ours = {paper_model(group.model) for group in groups}
    rest = [key for key in keys if key not in places]
    return places + [key for key in rest if key[0] in ours or key[0] in always]


def _printed_key(group: Group) -> PrintedKey:
    sparsity = -1.0 if group.sparsity is None else group.sparsity
    return paper_model(group.model) or "", sparsity


def cell(summary: Summary | None, decimals: int) -> str:
    """A mean with its deviation and the number of seeds, or a dash.

    Example:
        >>> cell(Summary(67.493, 0.6, 3), 2), cell(Summary(0.44, None, 1), 3)
        ('67.49 ± 0.60 (3)', '0.440 ± - (1)')
        >>> cell(None, 2)
        '-'
    """
    if summary is None:
        return ABSENT
    deviation = ABSENT if summary.std is None else f"{summary.std:.{decimals}f}"
    return f"{summary.mean:.{decimals}f} ± {deviation} ({summary.count})"


def score_cell(summary: Summary | None, score: Score) -> str:
    """A mean score in the table's unit, or a dash."""
    return cell(summary and summary.scaled(score.factor), score.decimals)


def row(*cells: str, quoted: bool = False) -> Row:
    """A row of cells."""
    return Row(cells, quoted)
