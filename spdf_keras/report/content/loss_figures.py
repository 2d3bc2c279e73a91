"""The figures: loss curves, score against sparsity, density per layer.

A sparsity has the same colour in all figures of a report.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spdf_keras.report.content.cells import Labels, score_table
from spdf_keras.report.page.document import Picture
from spdf_keras.report.page.drawing import (
    COLORS,
    INK,
    LINE_COLORS,
    SIZE,
    UNKNOWN,
    Draw,
    draw_picture,
)
from spdf_keras.report.runs.density import MATRICES, Density
from spdf_keras.report.runs.groups import Group, tuning_of
from spdf_keras.report.runs.printed import Score, ScoreTable
from spdf_keras.report.runs.quantities import Summary, percent
from spdf_keras.report.runs.records import Curve, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 400
# The first steps fall from far above; the axis leaves them out.
_WARM_UP = 0.05
_CURVES = ("training, smoothed", "validation")


def sparsity_colors(runs: Iterable[RunRecord]) -> dict[float | None, str]:
    """A colour for each sparsity of a report."""
    known = sorted({r.origin.sparsity for r in runs if r.origin.sparsity is not None})
    colors: dict[float | None, str] = {
        sparsity: COLORS[index % len(COLORS)] for index, sparsity in enumerate(known)
    }
    return {**colors, None: UNKNOWN}


def loss_figures(
    runs: Sequence[RunRecord], labels: Labels, colors: Mapping[float | None, str]
) -> list[Picture]:
    """Training and validation loss: a figure per model, stage and task."""
    kinds: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        if run.training.steps or run.validation.steps:
            stage = "Pre-training"
            if run.kind != "pretrain":
                name = score_table(run.task, []).task
                stage = f"Fine-tuning on {name}" if name else "Fine-tuning"
            kinds.setdefault((stage, labels[run.config.model]), []).append(run)
    return [
        draw_picture(f"loss-{n}", f"{stage}: {label}", _loss_drawing(members, colors))
        for n, ((stage, label), members) in enumerate(kinds.items(), 1)
    ]


def _loss_drawing(
    runs: Sequence[RunRecord], colors: Mapping[float | None, str]
) -> Draw:
    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        legend: dict[str, dict[str, Any]] = {}
        heights: list[float] = []
        for run in runs:
            color = colors[run.origin.sparsity]
            legend.setdefault(percent(run.origin.sparsity), {"color": color})
            kept = tuning_of(run) == "sparse"
            curves = (thin(smoothed(run.training)), run.validation)
            for what, curve in zip(_CURVES, curves, strict=True):
                if curve.steps:
                    style = _line_style(what == "validation", kept)
                    axes.plot(curve.steps, curve.losses, color=color, **style)
                    name = f"{what}, masks kept" if kept else what
                    legend.setdefault(name, {"color": INK, **style})
                    heights += _settled(curve)
        if heights:
            low, high = min(heights), max(heights)
            margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
            axes.set_ylim(low - margin, high + margin)
        # Sparsities first; the lines in ink say what is drawn how.
        for name in sorted(legend, key=lambda name: legend[name]["color"] == INK):
            axes.plot([], [], label=name, **legend[name])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="step", ylabel="loss, nats per token")
        axes.legend()

    return draw


def _line_style(validation: bool, kept: bool) -> dict[str, Any]:
    style: dict[str, Any] = {"linewidth": 0.9, "linestyle": ":" if kept else "-"}
    if validation:
        marker = "x" if kept else "o"
        style.update(linestyle="--", marker=marker, markersize=4 if kept else 2.5)
    return style


def smoothed(curve: Curve, weight: float = 0.95) -> Curve:
    """An exponential moving average, without its bias towards zero.

    Losses that are not finite stay as they are and do not enter the average.

    Example:
        >>> smoothed(Curve((1, 2), (2.0, 4.0)), weight=0.5).losses
        (2.0, 3.3333333333333335)
    """
    average, norm, losses = 0.0, 0.0, []
    for value in curve.losses:
        if math.isfinite(value):
            average = weight * average + (1 - weight) * value
            norm = weight * norm + (1 - weight)
            value = average / norm
        losses.append(value)
    return Curve(curve.steps, tuple(losses))


def thin(curve: Curve, points: int = _POINTS) -> Curve:
    """Leaves out steps, evenly and never the last, down to about so many points."""
    every = math.ceil(len(curve.steps) / points)
    if every < 2:
        return curve
    kept = slice((len(curve.steps) - 1) % every, None, every)
    return Curve(curve.steps[kept], curve.losses[kept])


def _settled(curve: Curve) -> list[float]:
    start = _WARM_UP * (curve.steps[-1] if curve.steps else 0)
    losses = zip(curve.steps, curve.losses, strict=True)
    return [loss for step, loss in losses if step >= start and math.isfinite(loss)]


def score_figures(groups: Sequence[Group], labels: Labels) -> list[Picture]:
    """The main score of one task and split against the sparsity of pre-training.

    Our models and the paper's GPT-2 Small get figures of their own with axes of
    equal span: levels of different models do not compare, falls do. WebNLG has a
    figure per part.
    """
    task, split = groups[0].task, groups[0].split
    layout = score_table(task, groups)
    if not layout.scores:
        return []
    score = layout.scores[0]
    parts = list(dict.fromkeys(part for group in groups for part in group.parts))
    spans, drawings = [], []
    for part in ("", *parts):
        lines = dict(_lines(groups, labels, score, part))
        points = [s for line in lines.values() for _, s in line]
        if not points:
            continue
        shown = f"{layout.task}{f' ({part})' if part else ''}"
        name = _file_name("score", task, split, part)
        drawings.append((name, f"{shown}, {split}: {score.title}", lines, False))
        spans.append(_span(points))
    printed = _printed_line(layout, score)
    if printed and drawings:
        title = f"{layout.task}: {score.title} as printed, GPT-2 Small"
        name = _file_name("score", task, split, "printed")
        drawings.append((name, title, {"GPT-2 Small, printed": printed}, True))
        spans.append(_span([s for _, s in printed]))
    height = max(high - low for low, high in spans) if spans else 0.0
    return [
        draw_picture(name, title, _score_drawing(lines, score, span, height, dashed))
        for (name, title, lines, dashed), span in zip(drawings, spans, strict=True)
    ]


def _file_name(*words: str) -> str:
    # Tasks and parts are what an evaluation calls them.
    return "-".join(re.sub(r"\W+", "-", word) for word in words if word)


Line = list[tuple[float, Summary]]


def _lines(
    groups: Sequence[Group], labels: Labels, score: Score, part: str
) -> Iterator[tuple[str, Line]]:
    lines: dict[str, Line] = {}
    for group in groups:
        summary = group.score(score.name, part)
        if group.sparsity is None or summary is None:
            continue
        tuning = {"none": "not fine-tuned"}.get(
            group.tuning, f"{group.tuning} fine-tuning"
        )
        label = ", ".join(filter(None, (labels[group.model], tuning, group.variant)))
        point = (group.sparsity, summary.scaled(score.factor))
        lines.setdefault(label, []).append(point)
    for label, line in lines.items():
        yield label, sorted(line, key=lambda point: point[0])


def _printed_line(layout: ScoreTable, score: Score) -> Line:
    return [
        (sparsity, Summary(cells[score.name].mean, cells[score.name].std, 0))
        for (model, sparsity), cells in layout.printed.items()
        if model == "gpt2_small"
    ]


def _span(points: Sequence[Summary]) -> tuple[float, float]:
    lows = [s.mean - (s.std or 0) for s in points]
    highs = [s.mean + (s.std or 0) for s in points]
    return min(lows), max(highs)


def _score_drawing(
    lines: Mapping[str, Line],
    score: Score,
    span: tuple[float, float],
    height: float,
    dashed: bool,
) -> Draw:
    def draw(axes: "Axes") -> None:
        markers = "osD^vP"
        for index, (label, line) in enumerate(lines.items()):
            axes.errorbar(
                [100 * sparsity for sparsity, _ in line],
                [summary.mean for _, summary in line],
                [summary.std or 0 for _, summary in line],
                color=INK if dashed else LINE_COLORS[index % len(LINE_COLORS)],
                linestyle="--" if dashed else "-",
                marker=markers[index % len(markers)],
                markersize=4,
                linewidth=1.2,
                capsize=3,
                label=label,
            )
        middle, half = sum(span) / 2, 0.6 * height or 0.5 * abs(sum(span)) or 1.0
        # No score is below zero: an axis starts there for a bar at most.
        low = max(middle - half, min(span[0], 0.0))
        axes.set_ylim(low, low + 2 * half)
        sparsities = sorted({100 * s for line in lines.values() for s, _ in line})
        axes.set_xticks(sparsities, [f"{s:g}%" for s in sparsities])
        axes.margins(x=0.12)
        axes.set(xlabel="pre-train sparsity", ylabel=score.title)
        axes.legend()

    return draw


def density_figure(density: Density) -> Picture:
    """A heat map of the density of each masked matrix, with its value."""
    names = list(dict.fromkeys(matrix.name for matrix in density.matrices))
    layers = sorted({matrix.layer for matrix in density.matrices})

    def draw(axes: "Axes") -> None:
        values = [[math.nan] * len(names) for _ in layers]
        for matrix in density.matrices:
            row, column = layers.index(matrix.layer), names.index(matrix.name)
            values[row][column] = matrix.density
            # Not "black": SVG leaves that out, and the page's ink would fill in.
            color = "white" if matrix.density > 0.55 else "#0b1a2a"
            text = f"{matrix.density:.4f}"
            if matrix.violations:
                text, color = f"{text} ({matrix.violations} leak)", "#b00020"
            axes.text(
                column, row, text, ha="center", va="center", color=color, fontsize=7.5
            )
        axes.pcolormesh(
            range(len(names)),
            range(len(layers)),
            values,
            cmap="Blues",
            vmin=0.0,
            vmax=1.0,
            shading="nearest",
            edgecolors="white",
            linewidth=1,
        )
        axes.set_xticks(range(len(names)), [MATRICES.get(n, n) for n in names])
        axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
        axes.set_ylabel("layer")
        axes.invert_yaxis()
        axes.grid(False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)

    run = density.run
    title = (
        f"Density of run {run.number}: {percent(run.config.sparsity.sparsity)} sparse"
    )
    title += "" if run.kind == "pretrain" else ", fine-tuned with its masks"
    size = (SIZE[0], 0.9 + 0.28 * len(layers))
    return draw_picture(f"density-{run.number}", title, draw, size)
