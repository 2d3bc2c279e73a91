"""How the loss of quality changes with the size of the model."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from spdf_keras.config import GPTConfig
from spdf_keras.data.tasks.score_table import Score
from spdf_keras.report.content.cells import ABSENT, row, score_cell, score_table
from spdf_keras.report.content.difference_tables import (
    LOSS,
    RESOLVED,
    TUNED_LOSS,
    group_difference,
)
from spdf_keras.report.content.labels import Labels
from spdf_keras.report.content.quantities import percent
from spdf_keras.report.page.document import Block, Paragraph, Picture, Table
from spdf_keras.report.page.drawing import (
    LINE_COLORS,
    Draw,
    draw_picture,
    picture_name,
)
from spdf_keras.report.runs.differences import Difference, change
from spdf_keras.report.runs.groups import Group, by_task_and_split, main_groups
from spdf_keras.report.runs.means import Summary, summarise
from spdf_keras.report.runs.pairs import is_static, pairs
from spdf_keras.report.runs.resampling import Resamples
from spdf_keras.report.runs.variants import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The title of a column, and the difference of each size that has one.
_Columns = dict[str, dict[int, Difference]]

_TEXT = Paragraph(
    "A row per size. Differences are those of static masks, after dense fine-tuning, "
    "from the dense pre-training of the same size; and those of fine-tuning with the "
    f"masks kept from dense fine-tuning. {RESOLVED}: no interval includes zero. The "
    "last row is the change from the smallest to the largest model, with Welch's "
    "interval over seeds, which are no pairs there."
)


def sizes_blocks(
    pretraining: Sequence[Group],
    evaluations: Sequence[Group],
    labels: Labels,
    resamples: Resamples,
) -> Iterator[Block]:
    """Tables and figures of the differences that several sizes have.

    One of each for the loss of pre-training, for the main score of each task, and for
    the loss of fine-tuning.
    """
    finished = [group for group in pretraining if "step" not in group.settings]
    found = [*_blocks(finished, "Pre-training", [LOSS], labels, resamples)]
    for groups in by_task_and_split(main_groups(evaluations)):
        layout = score_table(groups[0].task, groups)
        scores = [*layout.scores[:1], *([TUNED_LOSS] if layout.scores else [])]
        found += _blocks(groups, layout.task, scores, labels, resamples)
    if found:
        yield _TEXT
    yield from found


def _blocks(
    groups: Sequence[Group],
    title: str,
    scores: Sequence[Score],
    labels: Labels,
    resamples: Resamples,
) -> Iterator[Block]:
    """A table and a figure per score, for groups of one task and split."""
    plain = [group for group in groups if is_static(group)]
    tuning = "dense" if scores != [LOSS] else "none"
    # The first recipe of a size stands for it, so that all of a row belongs together.
    first: dict[GPTConfig, Group] = {}
    for group in plain:
        if group.sparsity == 0 and group.tuning == tuning:
            first.setdefault(group.model, group)
    if len(first) < 2:
        return
    dense = sorted(first.values(), key=lambda group: group.model.num_parameters)
    plain = [
        group
        for group in plain
        if group is first.get(group.model)
        or (group.sparsity and _tokens(group) == _tokens(first.get(group.model)))
    ]
    for score in scores:
        columns = _columns(plain, score, resamples)
        if columns:
            yield _table(title, dense, score, columns, labels)
            yield _figure(groups[0], title, score, columns)


def _tokens(group: Group | None) -> object:
    return group and group.settings.get("train.tokens")


def _columns(groups: Sequence[Group], score: Score, resamples: Resamples) -> _Columns:
    """The differences by title; the first recipe of a size stands for it."""
    found: _Columns = {}
    for group, other in sorted(pairs(groups), key=lambda pair: pair[0].sparsity or 0):
        gap = group_difference(group, other, score, resamples)
        if gap is None:
            continue
        title = f"{percent(group.sparsity)} less dense"
        if group.tuning == "sparse":
            title = f"{percent(group.sparsity)}: kept less stripped"
        parameters = group.model.num_parameters
        found.setdefault(title, {}).setdefault(parameters, gap.scaled(score.factor))
    return dict(sorted(found.items(), key=lambda item: "kept" in item[0]))


def _table(
    title: str,
    dense: Sequence[Group],
    score: Score,
    columns: _Columns,
    labels: Labels,
) -> Table:
    losses = [] if score is LOSS else [LOSS]
    rows = []
    for group in dense:
        tokens = summarise((run.seed, run.origin.tokens) for run in group.runs)
        parameters = group.model.num_parameters
        rows.append(
            row(
                labels[group.model],
                count(parameters),
                count(tokens.mean) if tokens else ABSENT,
                *(score_cell(_value(group, known), known) for known in losses),
                score_cell(_value(group, score), score),
                *(_gap(gaps.get(parameters), score) for gaps in columns.values()),
            )
        )
    changes = [_change(gaps) for gaps in columns.values()]
    if any(changes):
        blank = [""] * (3 + len(losses))
        cells = (_gap(gap, score) for gap in changes)
        rows.append(row("largest less smallest", *blank, *cells))
    return Table(
        (
            *("Model", "Parameters", "Tokens"),
            *(f"Dense {_inside(known).heading}" for known in losses),
            f"Dense {_inside(score).heading}",
            *columns,
        ),
        tuple(rows),
        f"{title}: {_inside(score).title} by size",
    )


def _inside(score: Score) -> Score:
    """The score as it is written inside a sentence: names of metrics stay."""
    loss = score in (LOSS, TUNED_LOSS)
    return replace(score, title=score.title.lower()) if loss else score


def _value(group: Group, score: Score) -> Summary | None:
    if score is LOSS:
        return group.summary(lambda run: run.origin.validation_loss)
    if score is TUNED_LOSS:
        return group.summary(lambda run: run.validation.best)
    return group.score(score.name)


def _change(gaps: dict[int, Difference]) -> Difference | None:
    """From the smallest to the largest model; None if there is one size."""
    if len(gaps) < 2:
        return None
    return change(gaps[max(gaps)], gaps[min(gaps)])


def _gap(gap: Difference | None, score: Score) -> str:
    if gap is None:
        return ABSENT
    form = f"+.{score.decimals}f"
    mark = f" {RESOLVED}" if gap.is_resolved else ""
    lines = [f"{gap.mean:{form}}{mark}"]
    for name, interval in (("seeds", gap.seeds), ("inputs", gap.inputs)):
        if interval:
            lines.append(f"{name} {interval.low:{form}} to {interval.high:{form}}")
    return "\n".join(lines)


def _figure(group: Group, title: str, score: Score, columns: _Columns) -> Picture:
    place = (group.task, group.split) if group.task else ("pretraining", "")
    name = picture_name("sizes", *place, score.name)
    split = f", {group.split}" if group.split else ""
    caption = f"{title}{split}: differences of {_inside(score).title} by size"
    return draw_picture(name, caption, _drawing(score, columns))


def _drawing(score: Score, columns: _Columns) -> Draw:
    def draw(axes: "Axes") -> None:
        markers = "osD^vP"
        sizes = sorted({size for gaps in columns.values() for size in gaps})
        for index, (title, gaps) in enumerate(columns.items()):
            own = sorted(gaps)
            # Lines apart, so that their bars do not hide each other.
            places = [size * 1.04 ** (index - len(columns) / 2) for size in own]
            means = [gaps[size].mean for size in own]
            ends = [_widest(gaps[size]) for size in own]
            axes.errorbar(
                places,
                means,
                [
                    [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
                    [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
                ],
                color=LINE_COLORS[index % len(LINE_COLORS)],
                marker=markers[index % len(markers)],
                markersize=4,
                linewidth=1.2,
                capsize=3,
                label=title,
            )
        axes.axhline(0, linewidth=0.8, linestyle=":", color=LINE_COLORS[-1])
        axes.set_xscale("log")
        axes.set_xticks(sizes, [count(size) for size in sizes])
        axes.minorticks_off()
        axes.margins(x=0.15)
        axes.set(xlabel="parameters", ylabel=f"difference of {_inside(score).title}")

    return draw


def _widest(gap: Difference) -> tuple[float, float]:
    """The ends that all intervals of a difference lie between."""
    known = [interval for interval in (gap.seeds, gap.inputs) if interval]
    lows = [gap.mean, *(interval.low for interval in known)]
    highs = [gap.mean, *(interval.high for interval in known)]
    return min(lows), max(highs)
