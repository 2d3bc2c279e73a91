"""What a report consists of, before it is Markdown or HTML.

Both pages are written from the same `Document`, so nothing is stated twice.
Texts are plain, but for code between backticks in `Paragraph` and `Bullets`.
"""

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: One text per column.
        quoted: Whether it is not ours: the paper's row, or what a person wrote.
    """

    cells: tuple[str, ...]
    quoted: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: Titles.
        rows: The rows, each as long as `columns`.
        caption: What stands above it.
        text_columns: How many columns from the left are text; the others are
            numbers, aligned to the right.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    text_columns: int = 1


@dataclass(frozen=True)
class Picture:
    """A figure, in the form that each page needs.

    Attributes:
        name: Of its PNG file, without the ending.
        title: What it shows, in words.
        svg: For the HTML page; ink and grid follow the page's colours.
        png: For the Markdown page.
    """

    name: str
    title: str
    svg: str = field(repr=False)
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class Paragraph:
    """A text; what stands between backticks is code."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of texts, as in `Paragraph`."""

    items: tuple[str, ...]


Block = Table | Picture | Paragraph | Bullets


@dataclass(frozen=True)
class Section:
    """A part with a title of its own."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """Its name in links; the one that Markdown viewers make from the title.

        Example:
            >>> Section("Table 4: E2E, test set", ()).anchor
            'table-4-e2e-test-set'
        """
        kept = re.sub(r"[^\w\- ]", "", self.title.lower())
        return kept.replace(" ", "-")


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: Its heading.
        made: When and by what it was made, the only text that depends on that.
        sections: The parts, in order.
    """

    title: str
    made: str
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> list[Picture]:
        """All figures, in order."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [block for block in blocks if isinstance(block, Picture)]


def code(text: str) -> str:
    """Marks a text of any content as code, on one line.

    Example:
        >>> code("a `b`")
        "`a 'b'`"
    """
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def plain(text: str) -> str:
    """A text of any content in which nothing is code."""
    return text.replace("`", "'")


def spans(text: str) -> list[tuple[str, bool]]:
    """The pieces of a `Paragraph`, and whether each is code.

    Example:
        >>> spans("run `a b` now")
        [('run ', False), ('a b', True), (' now', False)]
    """
    pieces = [(piece, bool(index % 2)) for index, piece in enumerate(text.split("`"))]
    return [(piece, is_code) for piece, is_code in pieces if piece]
