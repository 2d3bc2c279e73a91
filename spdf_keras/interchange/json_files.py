"""Reads the JSON files of other libraries."""

from pathlib import Path
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.parsing import load_json


def read_json(file: Path, what: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        file: The file.
        what: Names it in errors, such as "the settings".

    Raises:
        InputError: If it cannot be read, or holds something else.
    """
    try:
        content = load_json(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot read {what} '{file}': {reason}.") from error
    if not isinstance(content, dict):
        raise InputError(f"'{file}' must hold a JSON object, as {what}.")
    return content
