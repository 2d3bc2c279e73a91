"""Figures of masks that change: density and turnover over the steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from spdf_keras.report.content.labels import Labels
from spdf_keras.report.content.quantities import percent
from spdf_keras.report.page.document import Picture
from spdf_keras.report.page.drawing import Draw, draw_picture
from spdf_keras.report.runs.records import Curve, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def mask_figures(
    runs: Sequence[RunRecord], labels: Labels, colors: Mapping[float | None, str]
) -> list[Picture]:
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
            draw = _drawing(curves, colors, axis, steps=name == "density")
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
    colors: Mapping[float | None, str],
    axis: str,
    steps: bool,
) -> Draw:
    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        styles: dict[str, str] = {}
        named: set[str] = set()
        for run, curve in curves:
            method = run.config.sparsity.method
            style = styles.setdefault(method, ("-", "--", ":", "-.")[len(styles) % 4])
            name = f"{method}, {percent(run.origin.sparsity)}"
            axes.plot(
                curve.steps,
                curve.losses,
                color=colors[run.origin.sparsity],
                linestyle=style,
                drawstyle="steps-post" if steps else "default",
                marker="" if steps else "o",
                markersize=2.5,
                linewidth=1.0,
                label="_" if name in named else name,
            )
            named.add(name)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="step", ylabel=axis)
        axes.legend()

    return draw
