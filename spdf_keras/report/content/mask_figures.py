"""Figures of masks that change: density and turnover over the steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spdf_keras.report.content.labels import Labels
from spdf_keras.report.content.quantities import percent
from spdf_keras.report.page.document import Picture
from spdf_keras.report.page.drawing import COLORS, Draw, draw_picture
from spdf_keras.report.runs.records import Curve, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Lines of equal density lie on each other; the style shows that there are several.
_STYLES = ("-", "--", ":", "-.")


def mask_figures(runs: Sequence[RunRecord], labels: Labels) -> list[Picture]:
    """Two figures per model whose runs have updated masks: density and turnover."""
    kinds: dict[str, list[RunRecord]] = {}
    for run in runs:
        if run.mask_density.steps:
            kinds.setdefault(labels[run.config.model], []).append(run)
    pictures = []
    for number, (label, members) in enumerate(kinds.items(), 1):
        densities = [(run, _with_start(run)) for run in members]
        turnovers = [(run, run.mask_turnover) for run in members]
        for name, curves, axis in (
            ("density", densities, "kept weights"),
            ("turnover", turnovers, "dropped weights over kept ones"),
        ):
            draw = _drawing(curves, axis, steps=name == "density")
            title = f"Mask {name}: {label}"
            pictures.append(draw_picture(f"masks-{name}-{number}", title, draw))
    return pictures


def _with_start(run: RunRecord) -> Curve:
    """The density from the first step to the last, as a line of steps."""
    curve = run.mask_density
    first = 1 - run.plan.at(1)
    last = max(run.steps, curve.steps[-1])
    return Curve((1, *curve.steps, last), (first, *curve.losses, curve.losses[-1]))


def _drawing(
    curves: Sequence[tuple[RunRecord, Curve]],
    axis: str,
    steps: bool,
) -> Draw:
    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        shown: dict[str, tuple[str, str]] = {}
        for run, curve in curves:
            name = f"{run.config.sparsity.method}, {percent(run.origin.sparsity)}"
            label = "_" if name in shown else name
            index = len(shown)
            shown.setdefault(
                name, (COLORS[index % len(COLORS)], _STYLES[index % len(_STYLES)])
            )
            color, style = shown[name]
            axes.plot(
                curve.steps,
                curve.losses,
                color=color,
                linestyle=style,
                drawstyle="steps-post" if steps else "default",
                marker="" if steps else "o",
                markersize=2.5,
                linewidth=1.0,
                label=label,
            )
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="step", ylabel=axis)

    return draw
