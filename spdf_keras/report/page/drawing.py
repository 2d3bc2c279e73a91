"""Draws a figure once and saves it twice.

As PNG on white, and as SVG whose ink and grid lines take the colours of the page
that it stands in.
"""

import html
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spdf_keras.report.page.document import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of equal weight on white and on black.
COLORS = ("#3778c2", "#d9822b", "#2f9e6e", "#b5539c", "#8c6d31", "#7566c9")
UNKNOWN = "#8a8a8a"
# Lines that are no sparsity begin with those that are rarely one.
LINE_COLORS = (*COLORS[3:], *COLORS[:3])
# Stand for the page's colours in SVG; nothing else is drawn in them.
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

# What pictures say of their origin.
SOFTWARE = "spdf-keras"

Draw = Callable[["Axes"], None]


def draw_picture(
    name: str, title: str, draw: Draw, size: tuple[float, float] = SIZE
) -> Picture:
    """Draws a figure of one panel; equal calls give equal bytes."""
    from matplotlib.figure import Figure

    with figure_style(name):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(title, loc="left", fontsize=10)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=160, metadata={"Software": SOFTWARE})
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    return Picture(name, title, inline_svg(svg.getvalue(), name, title), png.getvalue())


@contextmanager
def figure_style(name: str) -> Iterator[None]:
    """The style of all figures; `name` keeps the SVG's names from others'."""
    import matplotlib

    # Names in the SVG follow from its content and this, not from chance.
    settings: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(settings):
        yield


def inline_svg(svg: str, name: str, title: str) -> str:
    """Makes an SVG document of matplotlib part of a page.

    Its names get `name` before them, as a page has each only once; its size and
    colours become those of the page; declarations that point to other hosts go.
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
