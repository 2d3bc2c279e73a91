"""The cells and rows that the tables of a report share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from spdf_keras.config import GPTConfig
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.data.tasks.score_table import Score, ScoreTable
from spdf_keras.flops import MODELS
from spdf_keras.report.page.document import Row
from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.printed import paper_model
from spdf_keras.report.runs.quantities import Summary, summarise
from spdf_keras.report.runs.records import RunRecord

Labels = Mapping[GPTConfig, str]
ABSENT = "-"
MEANS = "Mean ± standard deviation (seeds)"
TUNING = {"none": "none", "dense": "dense", "sparse": "sparse (masks kept)"}


def score_table(task: str, groups: Sequence[Group]) -> ScoreTable:
    """The layout of a task's table; for a task that the paper lacks, its scores."""
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
    """Our groups in order, each of a paper's model followed by the printed row.

    The paper's other rows come last: those of the models that we have, and those
    that are shown in any case, as a reference.
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


def group_label(group: Group, labels: Labels) -> str:
    """What a row calls a group: its model, and what sets it apart."""
    name = labels[group.model]
    return f"{name}; {group.variant}" if group.variant else name


def printed_label(name: str, groups: Sequence[Group]) -> str:
    """What a row calls a printed row; `groups` are those that it stands beside."""
    ours = any(paper_model(group.model) == name for group in groups)
    return f"{MODELS[name]}, printed" + ("" if ours else " (another model)")


def dataset_name(task: str) -> str:
    """What the paper calls a task."""
    return TASKS[task].table.task if task in TASKS else task or "not recorded"


def group_mean(group: Group, value: Callable[[RunRecord], float]) -> float:
    """Mean of something that every run has, over seeds."""
    summary = group.summary(value)
    assert summary is not None  # a group has a run
    return summary.mean


def pretraining_flops(groups: Iterable[Group]) -> float | None:
    """Mean FLOPs of the pre-trainings behind some groups, where recorded."""
    summary = summarise((r.seed, r.origin.flops) for g in groups for r in g.runs)
    return summary.mean if summary else None


def cell(summary: Summary | None, decimals: int) -> str:
    """A mean as text, or a dash."""
    return summary.text(decimals) if summary else ABSENT


def score_cell(summary: Summary | None, score: Score) -> str:
    """A mean score in the table's unit, or a dash."""
    return cell(summary and summary.scaled(score.factor), score.decimals)


def row(*cells: str, quoted: bool = False) -> Row:
    """A row of cells."""
    return Row(cells, quoted)
