"""A report as sections, tables, pictures and texts.

The HTML page and the Markdown page are both written from one `Document`. Texts are
plain, except for code between backticks in `Paragraph` and `Bullets`.
"""

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: One text per column; a line break stays one.
        quoted: Whether others wrote it: the paper, or the author of a reference.
    """

    cells: tuple[str, ...]
    quoted: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: Titles of the columns.
        rows: The rows, each as long as `columns`.
        caption: Text above the table.
        text_columns: Number of columns from the left that are text; the others are
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
        name: Name of its PNG file, without the ending.
        title: Description of what it shows.
        svg: The figure of the HTML page; ink and grid take the page's colours.
        png: The figure of the Markdown page.
    """

    name: str
    title: str
    svg: str = field(repr=False)
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class Paragraph:
    """A text, in which code stands between backticks."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of texts, each like that of a `Paragraph`."""

    items: tuple[str, ...]


Block = Table | Picture | Paragraph | Bullets


@dataclass(frozen=True)
class Section:
    """A part of a report, with a title."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """Its name in links, which Markdown viewers derive from the title.

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
        made: Time and program that made it; no other text depends on them.
        sections: Its parts, in order.
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
    """Marks any text as code, on one line.

    Example:
        >>> code("a `b`")
        "`a 'b'`"
    """
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def plain(text: str) -> str:
    """Any text, as one without code."""
    return text.replace("`", "'")


def spans(text: str) -> list[tuple[str, bool]]:
    """The pieces of a `Paragraph`, and whether each is code.

    Example:
        >>> spans("run `a b` now")
        [('run ', False), ('a b', True), (' now', False)]
    """
    pieces = [(piece, bool(index % 2)) for index, piece in enumerate(text.split("`"))]
    return [(piece, is_code) for piece, is_code in pieces if piece]
