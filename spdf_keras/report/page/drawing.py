"""Draws a figure and saves it as PNG and as SVG.

The PNG has a white background. In the SVG, ink and grid lines take the colours of the
page that contains it.
"""

import html
import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spdf_keras.report.page.document import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# These colours are equally visible on white and on black.
COLORS = ("#3778c2", "#d9822b", "#2f9e6e", "#b5539c", "#8c6d31", "#7566c9")
UNKNOWN = "#8a8a8a"
# Lines that stand for no sparsity begin with colours that sparsities rarely reach.
LINE_COLORS = (*COLORS[3:], *COLORS[:3])
# Placeholders for the page's colours in SVG; nothing else is drawn in them.
INK, GRID = "#1c1c21", "#d4d4da"
_STYLE = {
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "svg.fonttype": "none",
    "path.simplify": True,
}
SIZE = (4.9, 3.3)
# Height of a line of the legend in inches, and characters that fit beside each other.
_LEGEND_LINE, _LEGEND_CHARACTERS = 0.19, 70

# Value of the PNG field by which a later report recognises its own pictures.
SOFTWARE = "spdf-keras"

Draw = Callable[["Axes"], None]


def picture_name(*words: str) -> str:
    """Joins words to the name of a figure's file.

    Names of tasks and parts come from files and may hold any character.

    Example:
        >>> picture_name("score", "my task", "", "dev/a")
        'score-my-task-dev-a'
    """
    return "-".join(re.sub(r"\W+", "-", word) for word in words if word)


def draw_picture(
    name: str, title: str, draw: Draw, size: tuple[float, float] = SIZE
) -> Picture:
    """Draws a figure of one panel; equal calls give equal bytes.

    A legend of all labels stands below the panel, where it hides nothing.
    """
    from matplotlib.figure import Figure

    with figure_style(name):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(title, loc="left", fontsize=10)
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            # A line beside a label takes the place of eight characters.
            columns = _LEGEND_CHARACTERS // (8 + max(map(len, labels)))
            columns = min(max(1, columns), len(labels))
            lines = math.ceil(len(labels) / columns)
            figure.set_figheight(size[1] + _LEGEND_LINE * lines)
            figure.legend(handles, labels, loc="outside lower left", ncols=columns)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=160, metadata={"Software": SOFTWARE})
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    return Picture(name, title, inline_svg(svg.getvalue(), name, title), png.getvalue())


@contextmanager
def figure_style(name: str) -> Iterator[None]:
    """Sets the style of all figures; `name` makes the ids of an SVG its own."""
    import matplotlib

    # Ids in the SVG follow from its content and this salt, not from chance.
    settings: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(settings):
        yield


def inline_svg(svg: str, name: str, title: str) -> str:
    """Makes an SVG document of matplotlib part of a page.

    Its ids get `name` as a prefix, because an id is unique in a page. Its size and
    colours follow the page. Declarations that point to other hosts are removed.
    """
    body = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="[^"]*"', body)
    assert view is not None  # matplotlib always writes one
    inner = body[body.index(">") + 1 : body.rindex("</svg>")]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.S)
    inner = re.sub(r"<style[^>]*>.*?</style>", "", inner, flags=re.S)
    inner = re.sub(r'\bid="', f'id="{name}-', inner)
    inner = re.sub(r'href="#', f'href="#{name}-', inner)
    inner = inner.replace("url(#", f"url(#{name}-").replace("xlink:href", "href")
    inner = inner.replace(INK, "currentColor").replace(GRID, "var(--line)")
    label = html.escape(title, quote=True)
    return f'<svg {view[0]} role="img" aria-label="{label}">{inner.strip()}</svg>'
