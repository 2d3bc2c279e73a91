"""What an artefact is, by its files and its card, before anything runs it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.export.card import card_path
from spdf_keras.export.files import checksum
from spdf_keras.native.build import TARGETS
from spdf_keras.values import shown

# What is read of a card, and whether it can be so.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "format": lambda value: isinstance(value, str),
    "vocabulary_size": lambda value: type(value) is int and value > 0,
    "relative_error": lambda value: value is None or type(value) in (int, float),
    "sha256": lambda value: isinstance(value, str),
}


@dataclass(frozen=True)
class Artefact:
    """An artefact that can be measured.

    Attributes:
        path: The file or folder.
        kind: `tflite`, `xla` or `saved_model`.
        card: Its card; empty where there is none.
    """

    path: Path
    kind: str
    card: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Artefact":
        """Finds out what an artefact is.

        Raises:
            InputError: If it cannot be measured, its card cannot be read, or its file
                is not that of its card.
        """
        path = Path(path)
        try:
            return cls._open(path)
        except OSError as error:
            raise InputError(f"Cannot read '{path}': {error.strerror}.") from error

    @classmethod
    def _open(cls, path: Path) -> "Artefact":
        kind, card = artefact_kind(path), read_card(path)
        if path.is_file() and card.get("sha256"):
            if checksum(path) != card["sha256"]:
                raise InputError(
                    f"'{path}' is damaged: its checksum is not that of its card. "
                    "Export it again, or remove the card."
                )
        return cls(path, kind, card)

    @property
    def library_target(self) -> str:
        """The library that skips its zeros, by its card; empty if there is none."""
        runtimes = self.card.get("runtimes")
        for runtime in runtimes if isinstance(runtimes, list) else ():
            if isinstance(runtime, dict) and runtime.get("skips_zeros") is True:
                target = runtime.get("library")
                if isinstance(target, str) and target in TARGETS:
                    return target
        return ""

    @property
    def vocabulary_size(self) -> int:
        """The model's vocabulary size on the card; 2 without a card."""
        return int(self.card.get("vocabulary_size", 2))


def artefact_kind(path: str | Path) -> str:
    """Tells `tflite`, `xla` and `saved_model` apart.

    Raises:
        InputError: If the artefact is none that can be measured.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".tflite":
        return "tflite"
    if (path / "artefact.json").is_file():
        programs = _programs(path / "artefact.json")
        if {"prefill", "decode"} <= programs.keys():
            return "xla"
        raise InputError(
            f"An XLA artefact must have prefill and decode. Received: '{path}' with "
            f"{', '.join(programs) or 'none'}. `run_xla.py --benchmark` times these."
        )
    if (path / "saved_model.pb").is_file():
        if read_card(path).get("format") != "saved_model_text":
            return "saved_model"
        raise InputError(
            f"A SavedModel must take token ids. Received: '{path}', which takes text."
        )
    raise InputError(
        "An artefact must be a .tflite file, or a folder with artefact.json or "
        f"saved_model.pb. Received: '{path}'."
    )


def read_card(artefact: str | Path) -> dict[str, Any]:
    """Reads an artefact's card; it is empty where there is none.

    Raises:
        InputError: If it is no card.
    """
    file = card_path(artefact)
    if not file.is_file():
        return {}
    card = _json_object(file)
    for name, is_right in _FIELDS.items():
        if name in card and not is_right(card[name]):
            raise InputError(
                f"'{file}' is damaged: its {name} is {shown(card[name])}. Export the "
                "artefact again, or remove its card."
            )
    return card


def _programs(file: Path) -> dict[str, Any]:
    programs = _json_object(file).get("programs")
    if not isinstance(programs, dict):
        raise InputError(
            f"'{file}' is damaged: it names no programs. Export the artefact again."
        )
    return programs


def _json_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(
            f"'{file}' is damaged: it is no JSON object. Export the artefact again."
        )
    return content
