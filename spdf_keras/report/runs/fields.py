"""Reads JSON files of other programs; an error names the file and the field."""

import math
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from spdf_keras.errors import InputError
from spdf_keras.parsing import load_json
from spdf_keras.values import listed

_Conditions = TypeVar("_Conditions")


@dataclass(frozen=True)
class Fields:
    """A JSON object, with the file that it comes from.

    A field that is missing or null reads as empty, or as None. A field of another
    type raises an `InputError`, and so does a missing field that is `needed`.

    Attributes:
        values: The object.
        file: Its file.
    """

    values: dict[str, Any]
    file: Path

    def text(self, key: str, needed: bool = False) -> str:
        """A text."""
        return str(self._get(key, str, "a text", "", needed))

    def number(self, key: str) -> float | None:
        """A number; None if it is missing or not finite."""
        value = self._get(key, (int, float), "a number", None)
        if isinstance(value, bool):
            raise self._wrong(key, "a number")
        return value if value is not None and math.isfinite(value) else None

    def fields(self, key: str, needed: bool = False) -> "Fields":
        """An object."""
        return Fields(self._get(key, dict, "an object", {}, needed), self.file)

    def list_of_fields(self, key: str) -> list["Fields"]:
        """A list of objects."""
        items = self._get(key, list, "a list", [])
        if not all(isinstance(item, dict) for item in items):
            raise self._wrong(key, "a list of objects")
        return [Fields(item, self.file) for item in items]

    def list_of_texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        items = self._get(key, list, "a list", [])
        if not all(isinstance(item, str) for item in items):
            raise self._wrong(key, "a list of texts")
        return tuple(items)

    def numbers(self) -> dict[str, float | None]:
        """All fields that are numbers or null; other fields are left out."""
        kept = (int, float, type(None))
        return {
            key: self.number(key)
            for key, value in self.values.items()
            if isinstance(value, kept) and not isinstance(value, bool)
        }

    def texts(self) -> dict[str, str]:
        """All fields, which must be texts."""
        return {key: self.text(key) for key in self.values}

    def conditions(self, make: Callable[[str, str, str], _Conditions]) -> _Conditions:
        """The command, versions and hardware that it records, each as one text."""
        versions = self.fields("versions").values
        return make(
            hide_paths(self.text("command")),
            ", ".join(f"{name} {value}" for name, value in versions.items()),
            describe_hardware(self.fields("hardware").values),
        )

    def _get(
        self, key: str, kind: Any, kind_name: str, absent: Any, needed: bool = False
    ) -> Any:
        value = self.values.get(key)
        if value is None and not needed:
            return absent
        if not isinstance(value, kind):
            raise self._wrong(key, kind_name)
        return value

    def _wrong(self, key: str, must: str) -> InputError:
        return InputError(
            f"'{self.file}' cannot be read: `{key}` must be {must}. Received: "
            f"{self.values.get(key)!r}. Mend the file or remove it."
        )


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: If the file cannot be read or holds something else.
    """
    try:
        value = load_json(file.read_text("utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # not UTF-8, or not JSON
        reason = str(error)
    else:
        if isinstance(value, dict):
            return value
        reason = "it is no JSON object"
    raise InputError(f"'{file}' cannot be read: {reason}. Mend the file or remove it.")


def describe_hardware(hardware: dict[str, Any]) -> str:
    """The hardware as a phrase.

    Example:
        >>> describe_hardware({"machine": "x86_64", "processor": "Xeon", "cores": 2,
        ...                    "memory_gib": 23.4, "accelerators": []})
        'Xeon, x86_64, 2 cores, 23.4 GiB, no accelerator'
    """
    if not hardware:
        return ""
    known = ("processor", "machine", "cores", "memory_gib", "accelerators")
    units = {"cores": " cores", "memory_gib": " GiB"}
    pieces = [
        f"{hardware[key]}{units.get(key, '')}"
        for key in known[:-1]
        if hardware.get(key) not in (None, "")
    ]
    if "accelerators" in hardware:
        names = [str(name) for name in hardware["accelerators"] or []]
        pieces.append(listed(names) or "no accelerator")
    pieces += [f"{key} {hardware[key]}" for key in hardware if key not in known]
    return ", ".join(pieces)


def hide_paths(command: str) -> str:
    """Shortens the absolute paths in a command, which describe a machine, not a run.

    A path below the current folder becomes relative; another one keeps its last part.

    Example:
        >>> hide_paths("spdf-keras pretrain a.toml --data /home/me/shards --out run")
        'spdf-keras pretrain a.toml --data .../shards --out run'
    """
    try:
        words = shlex.split(command)
    except ValueError:  # an open quote
        return re.sub(r"(?<![^\s='\"])/[^\s'\"]+", lambda m: _hide(m[0]), command)
    hidden = ["=".join(_hide(piece) for piece in word.split("=", 1)) for word in words]
    # A command without absolute paths keeps its quotes as they were written.
    return command if hidden == words else shlex.join(hidden)


def _hide(text: str) -> str:
    kind = re.match(r"\w+:(?=/[^/])", text)  # as in `hf:/home/me/gpt2`, no address
    if kind:
        return kind[0] + _hide(text[kind.end() :])
    if not text.startswith("/") or len(text) < 2:
        return text
    path = os.path.normpath(text)
    here = os.getcwd()
    if path == here or path.startswith(here.rstrip("/") + "/"):
        return os.path.relpath(path, here)
    return f".../{os.path.basename(path)}"
