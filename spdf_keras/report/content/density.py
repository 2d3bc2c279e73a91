"""The masks of each run as a table and as figures."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spdf_keras.report.content.cells import row
from spdf_keras.report.content.quantities import percent
from spdf_keras.report.page.document import Picture, Table
from spdf_keras.report.page.drawing import SIZE, draw_picture
from spdf_keras.report.runs.density import Density

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Names that the paper gives to the six matrices of a block.
_PAPER_NAMES = {
    "query": "W_Q",
    "key": "W_K",
    "value": "W_V",
    "attention_output": "W_D",
    "intermediate": "W_I",
    "output": "W_O",
}


def density_table(densities: Sequence[Density]) -> Table:
    """A table of the weights that each run's masks keep, and of their violations."""
    rows = []
    for density in densities:
        matrices, run = density.matrices, density.run
        size, kept = (sum(getattr(m, k) for m in matrices) for k in ("size", "kept"))
        values = [matrix.density for matrix in matrices]
        rows.append(
            row(
                f"{run.number}: {run.name}",
                f"{density.asked:.6f}",
                str(len(matrices)),
                f"{size:,}",
                f"{kept:,}",
                f"{kept / size:.6f}",
                f"{min(values):.6f} to {max(values):.6f}",
                f"{density.exact} of {len(matrices)}",
                str(density.violations),
            )
        )
    return Table(
        (
            *("Run", "Density asked for", "Masked matrices", "Their weights", "Kept"),
            *("Density", "Lowest to highest", "Exact count", "Violations"),
        ),
        tuple(rows),
        "Masks in the newest checkpoint of each run",
    )


def density_figure(density: Density) -> Picture:
    """A heat map with the density of each masked matrix."""
    names = list(dict.fromkeys(matrix.name for matrix in density.matrices))
    layers = sorted({matrix.layer for matrix in density.matrices})

    def draw(axes: "Axes") -> None:
        values = [[math.nan] * len(names) for _ in layers]
        for matrix in density.matrices:
            row, column = layers.index(matrix.layer), names.index(matrix.name)
            values[row][column] = matrix.density
            # The SVG writer omits "black", and the page's ink would take its place.
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
        axes.set_xticks(range(len(names)), [_PAPER_NAMES[n] for n in names])
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
