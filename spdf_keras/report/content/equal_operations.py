"""Tables of pre-trainings that took equally many operations."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from spdf_keras.data.tasks.score_table import Score
from spdf_keras.report.content.cells import (
    ABSENT,
    cell,
    row,
    score_cell,
    score_table,
)
from spdf_keras.report.content.difference_tables import (
    LOSS,
    TUNED_LOSS,
    Comparison,
    comparison_table,
    group_difference,
)
from spdf_keras.report.content.labels import Labels, group_label, run_numbers
from spdf_keras.report.content.quantities import percent, scientific
from spdf_keras.report.page.document import Block, Paragraph, Row, Table
from spdf_keras.report.runs.equal_operations import (
    TOLERANCE,
    Candidate,
    equal_operations,
)
from spdf_keras.report.runs.groups import Group, main_groups
from spdf_keras.report.runs.means import summarise
from spdf_keras.report.runs.pairs import is_static_one_of
from spdf_keras.report.runs.resampling import Resamples
from spdf_keras.report.runs.variants import count

_TEXT = (
    f"Pre-trainings stand together whose total operations agree within "
    f"{TOLERANCE:.0%}, zeros skipped, whatever their size, sparsity, method and number "
    "of tokens."
)
_SCORED = (
    " Scores are after dense fine-tuning; the second line of one is the score per "
    "exaFLOP of pre-training and fine-tuning together."
)


def equal_operations_blocks(
    pretraining: Sequence[Group],
    evaluations: Sequence[Group],
    labels: Labels,
    resamples: Resamples,
) -> Iterator[Block]:
    """A table per number of operations, and one of differences to dense and best."""
    scored = [g for g in main_groups(evaluations) if score_table(g.task, [g]).scores]
    clusters = equal_operations(pretraining, scored)
    if clusters:
        has_scores = any(_tasks(ways) for ways in clusters)
        yield Paragraph(_TEXT + (_SCORED if has_scores else ""))
    for ways in clusters:
        yield _table(ways, labels)
        gaps = comparison_table(
            equal_comparisons(ways, resamples),
            labels,
            "Differences at equal operations",
        )
        if gaps:
            yield gaps


def equal_comparisons(
    ways: Sequence[Candidate], resamples: Resamples
) -> list[Comparison]:
    """Compares each way with the dense one of its table, static masks, and the best.

    Masks that change, or are not uniform, are compared with the paper's static ones of
    the same model and sparsity. The best way has the highest main score of a task, or
    the lowest loss where there are no scores. Ways are compared with it one task at a
    time.
    """
    tasks = _tasks(ways)
    dense = next((way for way in ways if way.group.sparsity == 0), None)

    def is_reference(other: Candidate, way: Candidate) -> bool:
        return other is dense or is_static_one_of(other.group, way.group)

    comparisons = [
        found
        for way in ways
        for other in ways
        if way is not other and is_reference(other, way)
        for found in _compared(way, other, tasks, resamples)
    ]
    for task in tasks or [""]:
        best = _best(ways, task)
        if best is None:
            continue
        named = [task] if task else []
        for way in ways:
            # Such a pair stands above, in this order or the other, with all tasks.
            known = is_reference(best, way) or is_reference(way, best)
            if way is not best and not known:
                comparisons += _compared(way, best, named, resamples, not task)
    return comparisons


def _compared(
    way: Candidate,
    other: Candidate,
    tasks: Sequence[str],
    resamples: Resamples,
    with_loss: bool = True,
) -> Iterator[Comparison]:
    gaps = []
    if with_loss and way.pretraining and other.pretraining:
        gap = group_difference(way.pretraining, other.pretraining, LOSS, resamples)
        gaps += [(LOSS, gap)] if gap else []
    for task in tasks:
        own, theirs = way.evaluations.get(task), other.evaluations.get(task)
        if own and theirs:
            for score in (_main_score(own), TUNED_LOSS):
                gap = group_difference(own, theirs, score, resamples)
                title = f"{score_table(task, [own]).task} {score.title}"
                gaps += [(replace(score, title=title), gap)] if gap else []
    if gaps:
        yield Comparison(way.group, other.group, tuple(gaps))


def _table(ways: Sequence[Candidate], labels: Labels) -> Table:
    tasks = _tasks(ways)
    headings = []
    for task in tasks:
        group = next(w.evaluations[task] for w in ways if task in w.evaluations)
        layout = score_table(task, [group])
        for score in (_main_score(group), TUNED_LOSS):
            headings.append(f"{layout.task} {score.heading}")
    mean = sum(way.flops for way in ways) / len(ways)
    return Table(
        (
            *("Pre-training", "Sparsity", "Tokens", "FLOPs", LOSS.heading),
            *headings,
            "Runs",
        ),
        tuple(_row(way, tasks, labels) for way in ways),
        f"About {scientific(mean)} FLOPs of pre-training",
        text_columns=2,
    )


def _row(way: Candidate, tasks: Sequence[str], labels: Labels) -> Row:
    groups = [
        *([way.pretraining] if way.pretraining else []),
        *(way.evaluations[task] for task in tasks if task in way.evaluations),
    ]
    runs = {run.number: run for group in groups for run in group.runs}.values()
    tokens = summarise((run.seed, run.origin.tokens) for run in runs)
    losses = summarise((run.seed, run.origin.validation_loss) for run in runs)
    return row(
        group_label(way.group, labels),
        percent(way.group.sparsity),
        count(tokens.mean) if tokens else ABSENT,
        scientific(way.flops),
        cell(losses, 3),
        *(text for task in tasks for text in _scores(way.evaluations.get(task))),
        run_numbers(runs),
    )


def _scores(group: Group | None) -> tuple[str, str]:
    """The main score, with its rate, and the loss of fine-tuning."""
    if group is None:
        return ABSENT, ABSENT
    score, cost = _main_score(group), group.summary(lambda run: run.all_flops)
    summary = group.score(score.name)
    tuned = group.summary(lambda run: run.validation.best)
    text = score_cell(summary, score)
    if summary is not None and cost is not None and score.higher_is_better:
        rate = summary.mean * score.factor / (cost.mean / 1e18)
        text += f"\n{scientific(rate)} per exaFLOP"
    return text, score_cell(tuned, TUNED_LOSS)


def _tasks(ways: Sequence[Candidate]) -> list[str]:
    """The tasks that two ways or more have, since one way alone compares nothing."""
    counts = Counter(task for way in ways for task in way.evaluations)
    return [task for task, known in counts.items() if known > 1]


def _main_score(group: Group) -> Score:
    return score_table(group.task, [group]).scores[0]


def _best(ways: Sequence[Candidate], task: str) -> Candidate | None:
    def value(way: Candidate) -> float | None:
        if task:
            group = way.evaluations.get(task)
            summary = group and group.score(_main_score(group).name)
            sign = 1 if group and _main_score(group).higher_is_better else -1
            return sign * summary.mean if summary else None
        losses = way.pretraining and way.pretraining.summary(
            lambda run: run.validation.last
        )
        return -losses.mean if losses else None

    known = [(found, way) for way in ways if (found := value(way)) is not None]
    return max(known, key=lambda pair: pair[0])[1] if len(known) > 1 else None
