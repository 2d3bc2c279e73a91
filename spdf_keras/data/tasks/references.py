"""Reference files of the scorers."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from spdf_keras.data.corpus import open_text
from spdf_keras.errors import InputError


def read_references(paths: Sequence[str | Path]) -> list[list[str]]:
    """Reads the references of each item.

    Args:
        paths: One file, in which blank lines separate the items, each with a
            reference per line; or several files with one line per item, where
            an empty line is a missing reference.

    Raises:
        InputError: If a file cannot be read or the files differ in length.
    """
    contents = [open_text(path).splitlines() for path in paths]
    if len(contents) == 1:
        blocks = groupby(contents[0], key=lambda line: bool(line.strip()))
        return [list(lines) for has_text, lines in blocks if has_text]
    for path, lines in zip(paths, contents, strict=True):
        if len(lines) != len(contents[0]):
            raise InputError(
                "Reference files must have a line per item. Received: "
                f"{len(contents[0])} lines in '{paths[0]}', {len(lines)} in '{path}'."
            )
    return [
        [text for text in texts if text.strip()]
        for texts in zip(*contents, strict=True)
    ]
