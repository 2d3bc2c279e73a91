"""The parts of a test set, such as `seen` and `unseen`: a name for each item."""

import re
from collections.abc import Sequence
from pathlib import Path

from spdf_keras.data.corpus.forms import ending
from spdf_keras.data.tasks.columns import TABLES
from spdf_keras.data.tasks.files import read_table
from spdf_keras.data.tasks.references import Lines, read_lines, read_plain
from spdf_keras.errors import InputError


def read_parts(path: str | Path, items: int) -> Lines:
    """Reads the part, such as `seen` or `unseen`, of each item.

    Args:
        path: A file with a part per line, or a table with tabs, commas or semicolons
            between its columns whose first line names a column `part`.
        items: Number of items there must be.

    Raises:
        InputError: If the file cannot be read, or lacks a part for an item.
    """
    lines = read_lines(path)
    first = lines[0].lower() if lines else ""
    if "\t" in first:
        header, *rows = [line.split("\t") for line in lines]
        parts = _part_column(path, header, rows)
    elif ending(path) in TABLES or "part" in _names(first):
        table = read_table(path, lambda names: "part" in names)
        parts = _part_column(path, table.header, [row for _, row in table.rows])
    else:
        parts = [line.strip() for line in read_plain(path)]
        if len(parts) == items + 1 and parts[0].lower() == "part":
            del parts[0]
    if len(parts) != items:
        raise InputError(
            f"'{path}' must have a part per output. Received: {items} outputs, "
            f"{len(parts)} parts."
        )
    for number, part in enumerate(parts, 1):
        if not part:
            raise InputError(f"'{path}' must name the part of item {number}.")
    return parts


def _names(line: str) -> Lines:
    """The columns that a line names, if it has a comma or semicolon."""
    names = re.split("[,;]", line)
    return [name.strip('" ') for name in names] if len(names) > 1 else []


def _part_column(path: str | Path, header: Lines, rows: Sequence[Lines]) -> Lines:
    names = [name.strip().lower() for name in header]
    if "part" not in names:
        raise InputError(
            f"The first line of '{path}' must name a column `part`. Received: "
            f"{', '.join(header)}."
        )
    column = names.index("part")
    return [row[column].strip() if len(row) > column else "" for row in rows]
