"""Finding and checking the files of the tasks."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from spdf_keras.data.corpus.forms import open_text
from spdf_keras.data.corpus.lines import split_lines
from spdf_keras.data.corpus.listing import entries_of
from spdf_keras.data.corpus.streams import COMPRESSED_SUFFIXES
from spdf_keras.errors import InputError
from spdf_keras.parsing import load_json

# The csv module refuses longer fields; its own default is less than some articles.
_LONGEST_FIELD = 2**27
_DELIMITERS = (",", ";", "\t")

_WORDS: dict[type, str] = {str: "text", list: "a list", dict: "an object"}


def name_of_split(names: dict[str, str], split: str) -> str:
    """A corpus's own name of a split.

    Raises:
        InputError: If `split` is not one of `names`.
    """
    if split not in names:
        known = ", ".join(names)
        raise InputError(f"A split must be one of {known}. Received: split={split}.")
    return names[split]


def find_file(
    folder: str | Path, inner: Iterable[str], names: Iterable[str]
) -> Path | None:
    """The first of `names` that exists, compressed or not, in upper or lower case.

    Args:
        folder: Where to look first.
        inner: Folders inside it, where to look next.
        names: File names, best first.
    """
    bases = [Path(folder), *(Path(folder) / name for name in inner)]
    for name in names:
        for base in bases:
            for suffix in ("", *COMPRESSED_SUFFIXES):
                path = _in_any_case(base / f"{name}{suffix}")
                if path:
                    return path
    return None


def _in_any_case(path: Path) -> Path | None:
    if path.is_file() or not path.parent.is_dir():
        return path if path.is_file() else None
    name = path.name.lower()
    others = (p for p in entries_of(path.parent) if p.name.lower() == name)
    return next((other for other in others if other.is_file()), None)


class Table(NamedTuple):
    """A csv file.

    Attributes:
        header: Names of the columns, without blanks around them.
        rows: Each row with the number of its last line; blank lines are left out.
    """

    header: list[str]
    rows: Iterator[tuple[int, list[str]]]


def read_table(path: str | Path, is_header: Callable[[list[str]], bool]) -> Table:
    """Reads a csv file with commas, semicolons or tabs, compressed or not.

    Args:
        path: The file.
        is_header: Whether names of columns, in lower case, are those that are needed.
            The first delimiter whose header passes is used.

    Raises:
        InputError: If the file cannot be read, or a row is no row of csv, which is
            raised from `rows` too; the message names the line.
    """
    lines = split_lines(open_text(path), keep_ends=True)
    for delimiter in _DELIMITERS:
        try:
            table = _table(path, lines, delimiter)
        except InputError:  # quoted names with another delimiter
            continue
        if is_header([name.lower() for name in table.header]):
            return table
    return _table(path, lines, _DELIMITERS[0])


def _table(path: str | Path, lines: list[str], delimiter: str) -> Table:
    rows = _rows(path, lines, delimiter)
    return Table([name.strip() for name in next(rows, (0, []))[1]], rows)


def _rows(
    path: str | Path, lines: list[str], delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    while True:
        limit = csv.field_size_limit(_LONGEST_FIELD)
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            message = f"'{path}', line {reader.line_num}: not a csv row: {error}."
            raise InputError(message) from error
        finally:
            csv.field_size_limit(limit)
        if any(value.strip() for value in row):
            yield reader.line_num, row


def read_json(path: str | Path) -> Any:
    """Reads a JSON file, compressed or not.

    Raises:
        InputError: If it cannot be read; the message names line and column.
    """
    return parse_json(path, open_text(path))


def parse_json(path: str | Path, text: str) -> Any:
    """Parses the text of a JSON file; errors are those of `read_json`."""
    try:
        return load_json(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"'{path}' is not JSON: {error.msg} at line {error.lineno}, "
            f"column {error.colno}."
        ) from error
    except ValueError as error:
        raise InputError(f"'{path}' is not usable: {error}.") from error


def checked(value: Any, kind: type, what: str, where: str) -> Any:
    """Returns `value` if it is of `kind`, else raises `InputError`.

    Args:
        value: From a JSON file.
        kind: `str`, `list` or `dict`.
        what: Names the value in the error.
        where: File and entry.
    """
    if isinstance(value, kind):
        if not isinstance(value, str):
            return value
        try:
            value.encode("utf-8")  # JSON can spell half of a character
            return value
        except UnicodeEncodeError:
            pass
    must, got = _WORDS[kind], repr(value)[:60]
    raise InputError(f"{where}: {what} must be {must}. Received: {got}.")


def field(entry: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """The value of a key that must be there, of the type that it must have."""
    if key not in entry:
        raise InputError(f"{where}: `{key}` is missing.")
    return checked(entry[key], kind, f"`{key}`", where)
