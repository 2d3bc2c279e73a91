"""Writes a report as Markdown, with its figures as PNG files beside it."""

import re
from collections.abc import Iterator, Sequence

from spdf_keras.report.page.document import (
    Block,
    Bullets,
    Document,
    Paragraph,
    Picture,
    Table,
    spans,
)

# Characters that have a meaning inside a line of GitHub's Markdown.
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#&$])")


def to_markdown(document: Document) -> str:
    r"""Writes a document as GitHub's Markdown.

    Example:
        >>> from spdf_keras.report.page.document import Section
        >>> blocks = (Paragraph("With `a|b`, 1 < 2."),)
        >>> print(to_markdown(Document("T", "Made now.", (Section("S", blocks),))))
        # T
        <BLANKLINE>
        Made now.
        <BLANKLINE>
        - [S](#s)
        <BLANKLINE>
        ## S
        <BLANKLINE>
        With `a|b`, 1 \< 2.
        <BLANKLINE>
    """
    contents = [f"- [{escape(s.title)}](#{s.anchor})" for s in document.sections]
    parts = [f"# {escape(document.title)}", _inline(document.made)]
    parts.append("\n".join(contents))
    for section in document.sections:
        parts.append(f"## {escape(section.title)}")
        parts += map(_block, section.blocks)
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    r"""Escapes any text, on one line.

    Example:
        >>> print(escape("a | b <i> *c*"))
        a \| b \<i\> \*c\*
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _block(block: Block) -> str:
    match block:
        case Table():
            return "\n".join(_table(block))
        case Picture():
            return f"![{escape(block.title)}]({block.name}.png)"
        case Paragraph():
            return _inline(block.text)
        case Bullets():
            return "\n".join(f"- {_inline(item)}" for item in block.items)


def _table(table: Table) -> Iterator[str]:
    if table.caption:
        yield f"**{escape(table.caption)}**"
        yield ""
    yield _line(table.columns)
    numbers = len(table.columns) - table.text_columns
    yield "|" + " --- |" * table.text_columns + " ---: |" * numbers
    for row in table.rows:
        cells = ["<br>".join(map(escape, cell.split("\n"))) for cell in row.cells]
        if row.quoted:
            cells = [f"*{cell}*" if cell else "" for cell in cells]
        yield "| " + " | ".join(cells) + " |"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"


def _inline(text: str) -> str:
    pieces = []
    for piece, is_code in spans(text):
        if is_code:
            pieces.append(f"`{piece}`")
        else:
            edges = (
                piece[: len(piece) - len(piece.lstrip())],
                piece[len(piece.rstrip()) :],
            )
            pieces.append(" " * bool(edges[0]) + escape(piece) + " " * bool(edges[1]))
    return "".join(pieces).strip()
