"""The journal, from which a preparation that was stopped goes on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.files import replace_file
from spdf_keras.parsing import load_json

JOURNAL = "journal.json"


class Journal:
    """`journal.json`: the state of a preparation, and the settings it belongs to."""

    def __init__(self, work: Path, settings: dict[str, Any]) -> None:
        self.path, self._settings = work / JOURNAL, settings

    def read(self) -> dict[str, Any]:
        """The last state; empty where there is none.

        Raises:
            InputError: If it belongs to other inputs or settings, or is damaged.
        """
        try:
            journal = load_json(self.path.read_text("utf-8"))
            before = journal.pop("settings")
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(
                f"'{self.path}' is damaged: {error}. Delete its folder to start over."
            ) from error
        for key in [*self._settings, *before]:
            if before.get(key) != self._settings.get(key):
                raise InputError(
                    f"'{self.path.parent}' holds a corpus that was begun with other "
                    f"{key.replace('_', ' ')}. Give the same to go on with it, or "
                    "delete that folder to start over."
                )
        return dict(journal)

    def write(self, state: dict[str, Any]) -> None:
        """Records the last state."""
        replace_file(self.path, json.dumps({"settings": self._settings, **state}))


def fingerprint_files(files: Sequence[Path]) -> list[list[Any]]:
    """Name, size and time of the last change of each file."""
    stats = [(str(file), file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def find_finished(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The index in a folder, if inputs and settings with this fingerprint made it."""
    try:
        index = load_json((folder / "index.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(index, dict) and index.get("prepared_from") == fingerprint
    return index if same else None
