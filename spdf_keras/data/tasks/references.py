"""The files that scorers read: outputs and references.

All of them are plain lines, or tables (`.csv`, `.tsv`) whose header names the columns,
as e2e-metrics reads them. A file in another form is refused.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from spdf_keras.data.corpus.forms import STRUCTURED, ending, form_of, open_text
from spdf_keras.data.corpus.lines import split_lines
from spdf_keras.data.tasks.columns import (
    OUTPUTS,
    REFERENCES,
    TABLES,
    is_header,
    read_columns,
)
from spdf_keras.errors import InputError
from spdf_keras.metrics.tokenizers.mteval import words_in_bytes

Lines = list[str]


def read_plain(path: str | Path) -> Lines:
    """Reads the lines of a text file, compressed or not.

    Raises:
        InputError: If the file cannot be read, is not UTF-8, or is no plain text by
            its name or by its content, but JSON, xml or a table.
    """
    lines = read_lines(path)
    name = STRUCTURED.get(ending(path))
    if name is None:
        start = "\n".join(lines[:99])
        form = form_of(start)
        if form != "text":
            name = {"json lines": "JSON lines", "markup": "xml"}.get(form, "JSON")
        elif lines and is_header(lines[0]):
            name = "a table"
    if name:
        raise InputError(
            f"'{path}' must hold plain text, a line each. Received: {name} by its "
            f"{'name' if ending(path) in STRUCTURED else 'first line'}. Put each text "
            "on a line of a .txt file, or name a table .csv or .tsv."
        )
    return lines


def read_lines(path: str | Path) -> Lines:
    """Reads the lines of a file, as `split_lines` has them, whatever its form.

    Raises:
        InputError: If the file cannot be read or is not UTF-8.
    """
    return split_lines(open_text(path))


def read_hypotheses(path: str | Path) -> Lines:
    """Reads outputs, one a line; an empty line is an empty output and counts.

    A table has an output in each row, in a column such as `output`.

    Raises:
        InputError: If the file cannot be read, is empty, or is in another form.
    """
    if ending(path) in TABLES:
        lines = [text for _, text in read_columns(path, OUTPUTS)]
    else:
        lines = read_plain(path)
    if not lines:
        raise InputError(
            f"'{path}' must hold an output per line, and it is empty; score the file "
            "that `spdf-keras generate` or `evaluate --out` wrote."
        )
    return lines


def read_prompts(path: str | Path) -> Lines:
    """Reads texts to continue, one a line; blank lines at the end do not count.

    Raises:
        InputError: If the file cannot be read, is in another form, or has a blank
            line between two prompts; the message names it.
    """
    lines = read_plain(path)
    while lines and not lines[-1].strip():
        del lines[-1]
    if not lines:
        raise InputError(f"'{path}' must hold a prompt per line, and it is empty.")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise InputError(
                f"'{path}', line {number}: every prompt must be a line of text. "
                "Received: an empty one."
            )
    return lines


def check_order(hypotheses: str | Path, references: Sequence[str | Path]) -> None:
    """Refuses two tables that hold the same inputs in different orders.

    Raises:
        InputError: If outputs would be scored against the references of others.
    """
    if len(references) != 1 or not {ending(hypotheses), ending(references[0])} <= {
        *TABLES
    }:
        return
    sources = [source for source, _ in read_columns(hypotheses, OUTPUTS)]
    rows = read_columns(references[0], REFERENCES)
    others = [source for source, _ in groupby(source for source, _ in rows)]
    if sources != others and sorted(sources) == sorted(others):
        place = next(i for i, s in enumerate(sources) if s != others[i])
        raise InputError(
            f"'{hypotheses}' and '{references[0]}' must have their inputs in one "
            f"order. Received: '{sources[place]}' and '{others[place]}' at item "
            f"{place + 1}."
        )


def read_references(
    paths: Sequence[str | Path], items: int | None = None
) -> list[Lines]:
    """Reads the references of each item.

    Args:
        paths: One file, in which blank lines separate the items, each with a
            reference per line, and which without a blank line in between has one
            reference per item; or several files with one line per item, where an
            empty line is a missing reference; or one table with a reference in each
            row, in which rows of one item follow each other with equal inputs.
        items: Number of items there must be. It also tells when a single block
            holds all references of a single item.

    Raises:
        InputError: If a file cannot be read, an item has no reference, or the
            numbers of lines or items differ.
    """
    names = " ".join(f"'{path}'" for path in paths)
    is_table = any(ending(path) in TABLES for path in paths)
    if is_table and len(paths) > 1:
        raise InputError(
            f"A table of references must be given alone. Received: {names}."
        )
    files = [] if is_table else [read_plain(path) for path in paths]
    if is_table:
        rows = groupby(read_columns(paths[0], REFERENCES), lambda row: row[0])
        items_texts = [[text for _, text in item if text.strip()] for _, item in rows]
    elif len(files) == 1:
        items_texts = _blocks(files[0], items)
    else:
        _check_lengths(paths, files)
        items_texts = [
            [t for t in texts if words_in_bytes(t)]
            for texts in zip(*files, strict=True)
        ]
    if not items_texts:
        raise InputError(f"There must be references. Received: nothing in {names}.")
    for number, texts in enumerate(items_texts, 1):
        if not texts:
            raise InputError(
                f"Item {number} has no reference in {names}; take its output out, or "
                "add one."
            )
    if items is not None and len(items_texts) != items:
        way_out = (
            "a line per output" if len(files) > 1 else "a blank line between items"
        )
        if is_table:
            way_out = "equal inputs in rows of one item, one after the other"
        raise InputError(
            "There must be as many items with references as outputs. Received: "
            f"{items} outputs, {len(items_texts)} items in {names}, which must have "
            f"{way_out}."
        )
    return items_texts


def _blocks(lines: Lines, items: int | None) -> list[Lines]:
    blocks: list[Lines] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        else:
            blocks.append([])
    while blocks and not blocks[-1]:
        del blocks[-1]
    if len(blocks) > 1:
        # Two blank lines are an item without a reference, if the count says so.
        return blocks if len(blocks) == items else [block for block in blocks if block]
    if not blocks or (items == 1 and len(blocks[0]) > 1):
        return blocks
    # e2e-metrics takes the lines of a single block for one reference each.
    return [[line] for line in blocks[0]]


def _check_lengths(paths: Sequence[str | Path], files: Sequence[Lines]) -> None:
    for path, lines in zip(paths, files, strict=True):
        if len(lines) != len(files[0]):
            raise InputError(
                "Reference files must have a line per item, empty where one is "
                f"missing. Received: {len(files[0])} lines in '{paths[0]}', "
                f"{len(lines)} in '{path}'."
            )
