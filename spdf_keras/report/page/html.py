"""Writes a report as one HTML file that needs no other file, host or script.

The tags are written here: a template library would be one more dependency for sixty
lines, and `html.escape` handles every text, which a property test proves.
"""

import html
import re
from collections.abc import Iterator
from itertools import groupby

from spdf_keras.report.page.document import (
    Block,
    Bullets,
    Document,
    Paragraph,
    Picture,
    Section,
    Table,
    spans,
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c21; --soft: #5d5d68; --page: #fff;
  --band: #f4f5f7; --line: #d4d4da; --link: #1f5fa8; --shade: #0003; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6ea; --soft: #a0a0ac; --page: #16171b; --band: #1f2127;
    --line: #3d3f48; --link: #8ab8ee; --shade: #fff3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 80rem; color: var(--ink);
  background: var(--page); font: 1rem/1.55 system-ui, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }
p, li { max-width: 48rem; }
.made { color: var(--soft); }
a { color: var(--link); }
nav ul { columns: 18rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: 1rem 0;
  /* A shadow at an edge behind which the table goes on; covers move with the table. */
  background: linear-gradient(90deg, var(--page) 30%, transparent),
    linear-gradient(270deg, var(--page) 30%, transparent) 100% 0,
    linear-gradient(90deg, var(--shade), transparent),
    linear-gradient(270deg, var(--shade), transparent) 100% 0;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll;
  background-size: 3rem 100%, 3rem 100%, .9rem 100%, .9rem 100%; }
table { border-collapse: collapse; font-size: .86rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 .4rem; }
caption span { display: inline-block; position: sticky; left: 0;
  max-width: min(76rem, 100vw - 3rem); }
th, td { padding: .3rem .45rem; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); vertical-align: bottom;
  overflow-wrap: normal; }
tbody th { font-weight: inherit; min-width: 5rem; overflow-wrap: break-word; }
/* Names break anywhere, numbers between a mean and its deviation alone. */
tbody td { overflow-wrap: break-word; min-width: 3.2rem; }
tbody td.number { overflow-wrap: normal; min-width: 0; }
.number { text-align: right; }
.number span { white-space: nowrap; }
table.texts { width: 100%; max-width: 60rem; }
.texts tbody th { width: 35%; }
.quoted { color: var(--soft); font-style: italic; background: var(--band); }
tbody .long { min-width: 9rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  /* The name of a row stays in sight while its numbers scroll. */
  table:not(.texts) tbody th { position: sticky; left: 0; background: var(--page);
    min-width: 6rem; max-width: 8rem; }
  tbody .long { min-width: 7rem; } }
.figures { display: grid; gap: 1.2rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; max-width: 34rem; }
svg { width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt;
  fill: currentColor; }
code { font: .88em ui-monospace, monospace; background: var(--band);
  padding: .1em .3em; border-radius: .2em; overflow-wrap: anywhere; }
"""
_LONG = 48


def to_html(document: Document) -> str:
    """Writes a document as a page; every text in it is escaped."""
    title, made = html.escape(document.title), _inline(document.made)
    links = "".join(
        f'<li><a href="#{s.anchor}">{html.escape(s.title)}</a></li>'
        for s in document.sections
    )
    body = "\n".join(map(_section, document.sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{title}</h1>\n<p class="made">{made}</p>\n</header>\n'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    blocks = []
    for is_picture, run in groupby(section.blocks, lambda b: isinstance(b, Picture)):
        parts = "\n".join(map(_block, run))
        blocks.append(
            f'<div class="figures">\n{parts}\n</div>' if is_picture else parts
        )
    title = f'<h2 id="{section.anchor}">{html.escape(section.title)}</h2>'
    return "\n".join(["<section>", title, *blocks, "</section>"])


def _block(block: Block) -> str:
    match block:
        case Table():
            return "".join(_table(block))
        case Picture():
            return f"<figure>{block.svg}</figure>"
        case Paragraph():
            return f"<p>{_inline(block.text)}</p>"
        case Bullets():
            items = "".join(f"<li>{_inline(item)}</li>" for item in block.items)
            return f"<ul>{items}</ul>"


def _table(table: Table) -> Iterator[str]:
    label = html.escape(table.caption or table.columns[0], quote=True)
    # `tabindex` lets the keyboard reach the table and scroll it.
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
    is_text = table.text_columns == len(table.columns)
    yield '<table class="texts">' if is_text else "<table>"
    if table.caption:
        yield f"<caption><span>{html.escape(table.caption)}</span></caption>"
    kinds = [
        "" if i < table.text_columns else "number" for i in range(len(table.columns))
    ]
    yield "<thead><tr>"
    for kind, column in zip(kinds, table.columns, strict=True):
        yield f'<th scope="col"{_class(kind)}>{html.escape(column)}</th>'
    yield "</tr></thead>\n<tbody>\n"
    for row in table.rows:
        yield f"<tr{_class('quoted' if row.quoted else '')}>"
        for index, (kind, cell) in enumerate(zip(kinds, row.cells, strict=True)):
            tag, scope = ("td", "") if index else ("th", ' scope="row"')
            # A long text wraps; the rest of the table scrolls.
            is_long = not kind and max(map(len, cell.split("\n"))) > _LONG
            kind = "long" if is_long else kind
            text = "<br>".join(
                map(_number if kind == "number" else html.escape, cell.split("\n"))
            )
            yield f"<{tag}{scope}{_class(kind)}>{text}</{tag}>"
        yield "</tr>\n"
    yield "</tbody></table></div>"


def _number(text: str) -> str:
    """A number that breaks only in front of its deviation, other end or unit."""
    pieces = [html.escape(piece) for piece in re.split(r" (?=± |to |per )", text)]
    if len(pieces) == 1:
        return pieces[0]
    return " ".join(f"<span>{piece}</span>" for piece in pieces)


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _inline(text: str) -> str:
    return "".join(
        f"<code>{html.escape(piece)}</code>" if is_code else html.escape(piece)
        for piece, is_code in spans(text)
    )
