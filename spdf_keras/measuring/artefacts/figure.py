"""Figure of artefacts side by side."""

from collections.abc import Sequence
from pathlib import Path

from spdf_keras.files import replacing
from spdf_keras.measuring.artefacts.measure import Row
from spdf_keras.measuring.turns import Spread


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws one panel per quantity, one bar per artefact, into a PNG file."""
    from matplotlib.figure import Figure

    names = [
        f"{Path(row.path).name}\n{row.format}{', zeros skipped' * bool(row.library)}"
        for row in rows
    ]
    panels: dict[str, list[float] | list[Spread]] = {
        "size (MB)": [row.size_bytes / 1e6 for row in rows],
        "memory (MB)": [row.memory_bytes / 1e6 for row in rows],
        "load (s)": [row.load_s for row in rows],
        "first token (s)": [row.first_token_s for row in rows],
        "per token (s)": [row.token_s for row in rows],
    }
    figure = Figure((3.2 * len(panels), 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        spreads = [value for value in values if isinstance(value, Spread)]
        widths = [spread.median for spread in spreads] if spreads else values
        axis.barh(names, widths, color="#4878a8")
        if spreads:
            low = [spread.median - spread.low for spread in spreads]
            high = [spread.high - spread.median for spread in spreads]
            axis.errorbar(
                widths, names, xerr=[low, high], fmt="none", ecolor="black", capsize=3
            )
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
