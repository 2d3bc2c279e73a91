"""Figure 1: measured speed-up against sparsity, beside the theoretical one."""

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spdf_keras.files import replacing
from spdf_keras.measuring.matmul.problem import Shape
from spdf_keras.measuring.matmul.rows import FORWARD, TRAINING, Row, break_even
from spdf_keras.report.page.drawing import COLORS, INK, UNKNOWN, figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {
    FORWARD: "Speed-up of one matrix product",
    TRAINING: "Speed-up of a matrix product and both of its gradients",
}
# Smaller speed-ups may be chance.
_CLEAR = 1.1


def points(
    rows: Sequence[Row], shape: str, tokens: int, operation: str, backend: str
) -> list[tuple[float, float]]:
    """Sparsities and speed-ups of one curve."""
    key = shape, tokens, operation, backend
    return sorted(
        (row.sparsity, row.speedup)
        for row in rows
        if (row.shape, row.tokens, row.operation, row.backend) == key
        and row.speedup is not None
    )


def draw(
    rows: Sequence[Row], operation: str, hardware: dict[str, Any], path: Path
) -> None:
    """Draws a panel for each shape and number of tokens.

    A ring marks where a curve passes the fastest dense product.

    Args:
        rows: The measurements, of one precision.
        operation: `FORWARD` or `TRAINING`.
        hardware: The part `hardware` of `provenance()`.
        path: The PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    shown = [row for row in rows if row.operation == operation and row.speedup]
    shapes = sorted(
        {row.shape for row in shown}, key=lambda shape: math.prod(Shape.parse(shape))
    )
    tokens = sorted({row.tokens for row in shown})
    # All rows are looked at, so that a backend has one colour in both figures.
    backends = dict(
        zip(
            dict.fromkeys(row.backend for row in rows),
            cycle((*COLORS, UNKNOWN)),
            strict=False,
        )
    )
    drawn = {row.backend for row in shown}
    with figure_style(path.stem):
        size = (2.9 * len(tokens) + 0.6, 2.5 * len(shapes) + 1.3)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(
            len(shapes), len(tokens), sharex=True, sharey=True, squeeze=False
        )
        for line, shape in zip(grid, shapes, strict=True):
            for axes, number in zip(line, tokens, strict=True):
                for backend, color in backends.items():
                    if backend in drawn:
                        curve = points(shown, shape, number, operation, backend)
                        _draw_curve(axes, curve, backend, color)
                _draw_theory(axes, [row.sparsity for row in shown])
                axes.set_title(
                    f"{shape}, {number} token{'s' * (number > 1)}", loc="left"
                )
        grid[0, 0].set_yscale("log")
        grid[0, 0].set_ylim(bottom=max(0.05, min(row.speedup or 1 for row in shown)))
        grid[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}x"))
        grid[0, 0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0%}"))
        for axes in grid[-1]:
            axes.set_xlabel("zeros")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        columns = min(4, len(labels))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        title = f"{_TITLES[operation]} over the fastest dense one"
        machine = f"{hardware['processor']}, {hardware['cores']} cores"
        machine = f"{machine}, {shown[0].precision}"
        figure.suptitle(f"{title}\n{machine}", x=0.01, ha="left", fontsize=10)
        with replacing(path, "wb") as file:
            figure.savefig(file, format="png", dpi=130, metadata={"Software": None})


def _draw_curve(
    axes: "Axes", curve: list[tuple[float, float]], label: str, color: str
) -> None:
    axes.plot(*zip(*curve, strict=True) if curve else ([], []), ".-", label=label)
    axes.lines[-1].set_color(color)
    passed = break_even(curve)
    # Dense products, equally fast, take turns to be the fastest: they get no ring.
    if passed is not None and curve[0][1] < 1 and curve[-1][1] > _CLEAR:
        axes.plot([passed], [1], "o", color=color, fillstyle="none", markersize=7)


def _draw_theory(axes: "Axes", sparsities: Sequence[float]) -> None:
    highest = max(sparsities)
    steps = [highest * i / 60 for i in range(61)]
    theory = [1 / (1 - s) for s in steps]
    axes.plot(steps, theory, "--", color=INK, linewidth=1, label="theory: 1 / (1 - s)")
    axes.axhline(1, color=INK, linewidth=0.6)
