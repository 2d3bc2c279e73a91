"""Puts runs together that differ in their seeds alone, and takes their mean.

The runs of a group have the same model, sparsity, task, split, recipe of
pre-training, protocol and way of decoding. Fine-tuning settings may differ inside a
group in which each seed has one run, because the paper selects them by a grid. Where a
seed has several runs, as in the grid itself, groups differ in these settings.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from spdf_keras.config import GPTConfig, SparsityConfig
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.report.runs.means import Summary, summarise
from spdf_keras.report.runs.records import Evaluation, RunRecord

# These settings do not make runs unlike: they change how a result is computed, but not
# the result, or they are seeds, or, as `keep_masks`, part of `Group.tuning`.
_NO_CONDITION = frozenset(
    ("seed", "micro_batches", "recompute", "jit_compile", "keep_checkpoints")
    + ("checkpoint_every", "validate_every", "keep_masks")
)


@dataclass(frozen=True)
class Group:
    """Runs, or evaluations of runs, that differ in their seeds.

    Attributes:
        model: Sizes of the model.
        sparsity: Sparsity of the pre-training; None if not recorded.
        tuning: `none` (pre-trained alone), `dense` (all weights learn) or
            `sparse` (masks kept in fine-tuning).
        task: The task; empty for pre-trainings.
        split: The split of evaluations; empty for trainings.
        variant: The settings in which it differs from groups that are otherwise equal.
        runs: Its runs.
        evaluations: One evaluation per run for evaluations; empty for trainings.
    """

    model: GPTConfig
    sparsity: float | None
    tuning: str
    task: str
    split: str
    variant: str
    runs: tuple[RunRecord, ...]
    evaluations: tuple[Evaluation, ...] = ()

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


def tuning_of(run: RunRecord) -> str:
    """`none`, `dense` or `sparse`; see `Group`."""
    if run.kind == "pretrain":
        return "none"
    return "sparse" if run.config.sparsity.sparsity else "dense"


def task_order(task: str) -> tuple[int, str]:
    """Sorts tasks as the paper does; others come last."""
    tasks = list(TASKS)
    return tasks.index(task) if task in tasks else len(tasks), task


def pretraining_groups(runs: Sequence[RunRecord]) -> list[Group]:
    """The pre-trainings."""
    chosen = [(run, None) for run in runs if run.kind == "pretrain"]
    return _groups(
        chosen, lambda run, _: {**_recipe(run), "length": run.length, **_place(run)}
    )


def _place(run: RunRecord) -> dict[str, Any]:
    """The step of an unfinished pre-training; finished ones are in other groups."""
    total = run.steps_in_all
    return {"step": run.steps} if total and run.steps < total else {}


def finetuning_groups(runs: Sequence[RunRecord]) -> list[Group]:
    """The fine-tunings; tasks in the paper's order."""
    chosen = [(run, None) for run in runs if run.kind != "pretrain"]
    return sorted(_groups(chosen, lambda run, _: _recipe(run)), key=_task_order)


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
        return {**_recipe(run), **fixed, **decode, **early}

    chosen = [(run, evaluation) for run in runs for evaluation in run.evaluations]
    groups = _groups(chosen, conditions)
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
        return run.config.model, run.origin.sparsity, run.seed, run.task, run.masks

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
    values: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        if run.kind == "pretrain":
            for name, value in _recipe(run).items():
                values[name].add(repr(value))
    return [name for name, distinct in values.items() if len(distinct) > 1]


def by_task_and_split(groups: Sequence[Group]) -> list[list[Group]]:
    """Puts the groups of each task and split together."""
    together: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        together.setdefault((group.task, group.split), []).append(group)
    return list(together.values())


Member = tuple[RunRecord, Evaluation | None]


def _groups(
    members: Sequence[Member],
    conditions: Callable[[RunRecord, Evaluation | None], dict[str, Any]],
) -> list[Group]:
    buckets: dict[tuple[Any, ...], list[Member]] = defaultdict(list)
    for run, evaluation in members:
        task = evaluation.task if evaluation else run.task
        split = evaluation.split if evaluation else ""
        place = (run.config.model, run.origin.sparsity, tuning_of(run), task, split)
        buckets[place].append((run, evaluation))
    groups = []
    for place, bucket in buckets.items():
        for settings, inner in _variants(bucket, conditions):
            runs = tuple(run for run, _ in inner)
            evaluations = tuple(e for _, e in inner if e is not None)
            groups.append(Group(*place, settings, runs, evaluations))
    return groups


def _variants(
    bucket: Sequence[Member],
    conditions: Callable[[RunRecord, Evaluation | None], dict[str, Any]],
) -> list[tuple[str, list[Member]]]:
    """Splits members that are not comparable; names the settings of each part."""
    parts: list[_Part] = []
    for settings, part in _partition([(conditions(*m), m) for m in bucket]):
        tuned = _partition([({**settings, **_tuned(m[0])}, m) for m in part])
        seeds = [s for _, inner in tuned for s in {run.seed for run, _ in inner}]
        is_grid = len(seeds) > len(set(seeds))
        parts += tuned if is_grid else [(settings, part)]
    names = {name for settings, _ in parts for name in settings}
    values = {n: {repr(settings.get(n)) for settings, _ in parts} for n in names}
    return [
        (", ".join(f"{k}={v}" for k, v in settings.items() if len(values[k]) > 1), part)
        for settings, part in parts
    ]


_Part = tuple[dict[str, Any], list[Member]]


def _partition(members: Sequence[tuple[dict[str, Any], Member]]) -> list[_Part]:
    parts: dict[str, _Part] = {}
    for settings, member in members:
        parts.setdefault(repr(sorted(settings.items())), (settings, []))[1].append(
            member
        )
    return list(parts.values())


def _recipe(run: RunRecord) -> dict[str, Any]:
    masks = {"sparsity.method": run.origin.method}
    if run.kind == "pretrain":
        # Few of these settings count for a method: usual ones are left out.
        usual = _settings("sparsity", SparsityConfig())
        given = _settings("sparsity", run.config.sparsity)
        masks |= {name: v for name, v in given.items() if v != usual[name]}
        masks.pop("sparsity.sparsity", None)
    return {**masks, **_settings("train", run.config.train)}


def _tuned(run: RunRecord) -> dict[str, Any]:
    is_pretraining = run.kind == "pretrain"
    return {} if is_pretraining else _settings("finetune", run.config.finetune)


def _settings(section: str, settings: Any) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for name, value in dataclasses.asdict(settings).items()
        if name not in _NO_CONDITION
    }
