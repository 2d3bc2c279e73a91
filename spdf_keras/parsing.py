"""Parses users' JSON and TOML, also beyond Python's own limits.

Python refuses to parse integers of more than 4,300 digits, with a message about Python.
Here such a number is a float in JSON, as its standard allows; in TOML it is an error.
"""

import json
import tomllib
from typing import Any


def load_json(text: str | bytes) -> Any:
    """Parses JSON; all its errors are `ValueError`s.

    Example:
        >>> load_json('{"id": 1' + "0" * 5000 + ', "text": "a"}')["text"]
        'a'
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError) or not _is_about_digits(error):
            raise
    return json.loads(text, parse_int=_number)


def load_toml(text: str) -> dict[str, Any]:
    """Parses TOML; all its errors are `ValueError`s."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        if _is_about_digits(error):
            raise ValueError("it has a number of more than 4,300 digits") from error
        raise


def _is_about_digits(error: ValueError) -> bool:
    return "integer string conversion" in str(error)


def _number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)
