"""Puts runs together that differ in their seeds alone, and takes their mean.

The runs of a group have the same model, sparsity, task, split, recipe of
pre-training, protocol and way of decoding. Fine-tuning settings may differ inside a
group in which each seed has one run, because the paper selects them by a grid. Where a
seed has several runs, as in the grid itself, groups differ in these settings.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spdf_keras.config import GPTConfig
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.report.runs.means import Summary, summarise
from spdf_keras.report.runs.records import Evaluation, RunRecord
from spdf_keras.report.runs.variants import Member, recipe, tuning_of, unequal, variants


@dataclass(frozen=True)
class Group:
    """Runs, or evaluations of runs, that differ in their seeds.

    Attributes:
        model: Sizes of the model.
        sparsity: Sparsity of the pre-training; None if not recorded.
        tuning: `none` (pre-trained alone), `dense` (all weights learn), `sparse`
            (masks kept in fine-tuning) or `lora` (an adapter beside frozen weights).
        task: The task; empty for pre-trainings.
        split: The split of evaluations; empty for trainings.
        variant: The settings in which it differs from groups that are otherwise equal.
        runs: Its runs.
        evaluations: One evaluation per run for evaluations; empty for trainings.
        settings: The settings that all of its runs have, by name.
    """

    model: GPTConfig
    sparsity: float | None
    tuning: str
    task: str
    split: str
    variant: str
    runs: tuple[RunRecord, ...]
    evaluations: tuple[Evaluation, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> tuple[GPTConfig, float | None, str, str]:
        """The row of a table that has a column per task."""
        return self.model, self.sparsity, self.tuning, self.variant

    @property
    def parts(self) -> list[str]:
        """Parts of the inputs that have scores of their own; `seen`, `unseen` first."""
        names = {part for evaluation in self.evaluations for part in evaluation.parts}
        return sorted(names, key=lambda name: (name not in ("seen", "unseen"), name))

    @property
    def score_names(self) -> list[str]:
        """Names of its scores."""
        return list(dict.fromkeys(n for e in self.evaluations for n in e.scores))

    def summary(self, value: Callable[[RunRecord], float | None]) -> Summary | None:
        """Summary over seeds of a number; None if no run has recorded it."""
        return summarise((run.seed, value(run)) for run in self.runs)

    def mean(self, value: Callable[[RunRecord], float]) -> float:
        """Mean over seeds of a number that every run has."""
        summary = self.summary(value)
        assert summary is not None  # a group has a run
        return summary.mean

    def score(self, name: str, part: str = "") -> Summary | None:
        """Summary of a score over seeds, for all inputs or for a part of them."""
        values = []
        for run, evaluation in zip(self.runs, self.evaluations, strict=True):
            scores = evaluation.parts.get(part, {}) if part else evaluation.scores
            values.append((run.seed, scores.get(name)))
        return summarise(values)


def task_order(task: str) -> tuple[int, str]:
    """Sorts tasks as the paper does; others come last."""
    tasks = list(TASKS)
    return tasks.index(task) if task in tasks else len(tasks), task


def pretraining_groups(runs: Sequence[RunRecord]) -> list[Group]:
    """The pre-trainings."""
    chosen = [(run, None) for run in runs if run.kind == "pretrain"]
    return _groups(
        chosen,
        lambda run, _: {**recipe(run), "length": run.length, **_place(run)},
        runs,
    )


def _place(run: RunRecord) -> dict[str, Any]:
    """The step of an unfinished pre-training; finished ones are in other groups."""
    total = run.steps_in_all
    return {"step": run.steps} if total and run.steps < total else {}


def finetuning_groups(runs: Sequence[RunRecord]) -> list[Group]:
    """The fine-tunings; tasks in the paper's order."""
    chosen = [(run, None) for run in runs if run.kind != "pretrain"]
    return sorted(_groups(chosen, lambda run, _: recipe(run), runs), key=_task_order)


def evaluation_groups(runs: Sequence[RunRecord]) -> list[Group]:
    """The evaluations: tasks in the paper's order, `test` before other splits."""

    def conditions(run: RunRecord, evaluation: Evaluation | None) -> dict[str, Any]:
        assert evaluation is not None
        decode = {
            f"decode.{name}": value
            for name, value in evaluation.decode.items()
            if name != "batch_size"  # it does not change the outputs
        }
        fixed = {"protocol": evaluation.protocol, "inputs": evaluation.inputs}
        early = {} if evaluation.finished else {"step": evaluation.step}
        return {**recipe(run), **fixed, **decode, **early}

    chosen = [(run, evaluation) for run in runs for evaluation in run.evaluations]
    groups = _groups(chosen, conditions, runs)
    return sorted(groups, key=_task_order)


def _task_order(group: Group) -> tuple[Any, ...]:
    return *task_order(group.task), group.split != "test", group.split


def pretraining_flops(groups: Iterable[Group]) -> float | None:
    """Mean FLOPs of the pre-trainings behind some groups, where recorded."""
    summary = summarise((r.seed, r.origin.flops) for g in groups for r in g.runs)
    return summary.mean if summary else None


def main_groups(groups: Sequence[Group]) -> list[Group]:
    """The groups of one split per task: the test split where there is one."""
    splits: dict[str, str] = {}
    for group in groups:
        splits.setdefault(group.task, group.split)
    return [group for group in groups if splits[group.task] == group.split]


def without_losers(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Leaves out the fine-tunings that a search tried and did not choose.

    A fine-tuning was not chosen if it has not been tested, and another one of the same
    pre-training, task and masks has.
    """

    def kind(run: RunRecord) -> tuple[Any, ...]:
        place = run.config.model, run.origin.sparsity, run.seed, run.task, run.masks
        return *place, repr(recipe(run))

    def is_tested(run: RunRecord) -> bool:
        return any(evaluation.split == "test" for evaluation in run.evaluations)

    tested = {kind(run) for run in runs if is_tested(run)}
    return [
        run
        for run in runs
        if run.kind == "pretrain" or is_tested(run) or kind(run) not in tested
    ]


def unlike_recipes(runs: Sequence[RunRecord]) -> list[str]:
    """Names of settings, besides sparsity and seeds, in which pre-trainings differ."""
    recipes = [recipe(run) for run in runs if run.kind == "pretrain"]
    names = dict.fromkeys(name for settings in recipes for name in settings)
    unlike = unequal(recipes)
    return [name for name in names if name in unlike]


def by_task_and_split(groups: Sequence[Group]) -> list[list[Group]]:
    """Puts the groups of each task and split together."""
    together: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        together.setdefault((group.task, group.split), []).append(group)
    return list(together.values())


def _groups(
    members: Sequence[Member],
    conditions: Callable[[RunRecord, Evaluation | None], dict[str, Any]],
    runs: Sequence[RunRecord],
) -> list[Group]:
    recipes: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        recipes[run.config.model, run.origin.sparsity].append(recipe(run))
    # A pre-training has the same name in the tables of all tasks.
    unlike = {place: unequal(own) for place, own in recipes.items()}
    buckets: dict[tuple[Any, ...], list[Member]] = defaultdict(list)
    for run, evaluation in members:
        task = evaluation.task if evaluation else run.task
        split = evaluation.split if evaluation else ""
        place = (run.config.model, run.origin.sparsity, tuning_of(run), task, split)
        buckets[place].append((run, evaluation))
    groups = []
    for place, bucket in buckets.items():
        for variant, settings, inner in variants(bucket, conditions, unlike[place[:2]]):
            own = tuple(run for run, _ in inner)
            evaluations = tuple(e for _, e in inner if e is not None)
            groups.append(Group(*place, variant, own, evaluations, settings))
    return groups
