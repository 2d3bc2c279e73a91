"""The files that scorers read: outputs, references, and the parts of a test set."""

from collections.abc import Sequence
from pathlib import Path

from spdf_keras.data.corpus import open_text
from spdf_keras.errors import InputError
from spdf_keras.metrics.tokens import words_in_bytes

Lines = list[str]


def read_lines(path: str | Path) -> Lines:
    r"""Reads the lines of a text file, plain or packed.

    A line ends at `\n` or `\r\n` and nowhere else: outputs may hold the other
    characters at which Python's `splitlines` splits. The last line needs no end.

    Raises:
        InputError: If the file cannot be read or is not UTF-8.
    """
    text = open_text(path)
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]
    return [line.removesuffix("\r") for line in lines]


def read_hypotheses(path: str | Path) -> Lines:
    """Reads outputs, one a line; an empty line is an empty output and counts.

    Raises:
        InputError: If the file cannot be read or is empty.
    """
    lines = read_lines(path)
    if not lines:
        raise InputError(
            f"'{path}' must hold an output per line, and it is empty; score the file "
            "that `spdf-keras generate` or `evaluate --out` wrote."
        )
    return lines


def read_references(
    paths: Sequence[str | Path], items: int | None = None
) -> list[Lines]:
    """Reads the references of each item.

    Args:
        paths: One file, in which blank lines separate the items, each with a
            reference per line, and which without a blank line in between has one
            reference per item; or several files with one line per item, where an
            empty line is a missing reference.
        items: Number of items there must be. It also tells when a single block
            holds all references of a single item.

    Raises:
        InputError: If a file cannot be read, an item has no reference, or the
            numbers of lines or items differ.
    """
    files = [read_lines(path) for path in paths]
    if len(files) == 1:
        found = _blocks(files[0], items)
    else:
        _check_lengths(paths, files)
        found = [
            [t for t in ts if words_in_bytes(t)] for ts in zip(*files, strict=True)
        ]
    names = " ".join(f"'{path}'" for path in paths)
    if not found:
        raise InputError(f"There must be references. Received: nothing in {names}.")
    for number, texts in enumerate(found, 1):
        if not texts:
            raise InputError(
                f"Item {number} has no reference in {names}; take its output out, or "
                "add one."
            )
    if items is not None and len(found) != items:
        way_out = (
            "a line per output" if len(files) > 1 else "a blank line between items"
        )
        raise InputError(
            "There must be as many items with references as outputs. Received: "
            f"{items} outputs, {len(found)} items in {names}, which must have "
            f"{way_out}."
        )
    return found


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


def read_parts(path: str | Path, items: int) -> Lines:
    """Reads the part, such as `seen` or `unseen`, of each item.

    Args:
        path: A file with a part per line, or a table with tabs between its columns
            whose first line names a column `part`.
        items: Number of items there must be.

    Raises:
        InputError: If the file cannot be read, or has not a part for each item.
    """
    lines = read_lines(path)
    if lines and "\t" in lines[0]:
        header, *rows = [line.split("\t") for line in lines]
        if "part" not in header:
            raise InputError(
                f"The first line of '{path}' must name a column `part`. Received: "
                f"{', '.join(header)}."
            )
        column = header.index("part")
        parts = [row[column].strip() if len(row) > column else "" for row in rows]
    else:
        parts = [line.strip() for line in lines]
        if len(parts) == items + 1 and parts[0] == "part":
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
