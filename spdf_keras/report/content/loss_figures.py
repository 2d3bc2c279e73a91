"""Loss curves: a figure per model, stage and task.

A sparsity has the same colour in all figures of a report.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spdf_keras.report.content.cells import score_table
from spdf_keras.report.content.labels import Labels
from spdf_keras.report.content.quantities import percent
from spdf_keras.report.page.document import Picture
from spdf_keras.report.page.drawing import COLORS, INK, UNKNOWN, Draw, draw_picture
from spdf_keras.report.runs.groups import tuning_of
from spdf_keras.report.runs.records import Curve, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 400
# The axis leaves out this part of the steps, whose losses are far above the rest.
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
            for kind, curve in zip(_CURVES, curves, strict=True):
                if curve.steps:
                    style = _line_style(kind == "validation", kept)
                    axes.plot(curve.steps, curve.losses, color=color, **style)
                    name = f"{kind}, masks kept" if kept else kind
                    legend.setdefault(name, {"color": INK, **style})
                    heights += _settled(curve)
        if heights:
            low, high = min(heights), max(heights)
            margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
            axes.set_ylim(low - margin, high + margin)
        # Sparsities come first; the lines in ink explain the line styles.
        for name in sorted(legend, key=lambda name: legend[name]["color"] == INK):
            axes.plot([], [], label=name, **legend[name])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="step", ylabel="loss, nats per token")

    return draw


def _line_style(validation: bool, kept: bool) -> dict[str, Any]:
    style: dict[str, Any] = {"linewidth": 0.9, "linestyle": ":" if kept else "-"}
    if validation:
        marker = "x" if kept else "o"
        style.update(linestyle="--", marker=marker, markersize=4 if kept else 2.5)
    return style


def smoothed(curve: Curve, weight: float = 0.95) -> Curve:
    """An exponential moving average, without its bias towards zero.

    Losses that are not finite are kept, and do not enter the average.

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
    """Leaves out steps evenly, except the last, until at most `points` are left."""
    every = math.ceil(len(curve.steps) / points)
    if every < 2:
        return curve
    kept = slice((len(curve.steps) - 1) % every, None, every)
    return Curve(curve.steps[kept], curve.losses[kept])


def _settled(curve: Curve) -> list[float]:
    """The finite losses after the warm-up."""
    start = _WARM_UP * (curve.steps[-1] if curve.steps else 0)
    losses = zip(curve.steps, curve.losses, strict=True)
    return [loss for step, loss in losses if step >= start and math.isfinite(loss)]
