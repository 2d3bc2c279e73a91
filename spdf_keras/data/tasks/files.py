"""Finding and checking the files of the tasks."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spdf_keras.data.corpus import open_text
from spdf_keras.errors import InputError
from spdf_keras.parsing import load_json

_WORDS: dict[type, str] = {str: "text", list: "a list", dict: "an object"}


def name_of_split(names: dict[str, str], split: str) -> str:
    """What a corpus calls a split.

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
    """The first of `names` that is there, plain or as `.gz`.

    Args:
        folder: Where to look first.
        inner: Folders inside it, to look in next.
        names: File names, best first.
    """
    bases = [Path(folder), *(Path(folder) / name for name in inner)]
    candidates = (
        base / f"{name}{ending}"
        for name in names
        for base in bases
        for ending in ("", ".gz")
    )
    return next((path for path in candidates if path.is_file()), None)


def read_json(path: str | Path) -> Any:
    """Reads a JSON file, plain or gzip.

    Raises:
        InputError: If it cannot be read; the message names line and column.
    """
    try:
        return load_json(open_text(path))
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
