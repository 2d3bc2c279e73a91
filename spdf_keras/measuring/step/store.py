"""Keeps records in a file of JSON lines, so that a stopped measurement goes on."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.files import replace_file
from spdf_keras.measuring.step.contenders import Contender
from spdf_keras.measuring.step.measure import Record
from spdf_keras.parsing import load_json


class Store:
    """Records in a file, a line each, with the machine that they come from.

    Args:
        path: The file; it need not exist.

    Attributes:
        records: All records, in the order in which they were measured.
        about: What `provenance` gave for the first record; None without records.

    Raises:
        InputError: If a line of the file is no record.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.records: list[Record] = []
        self.about: dict[str, Any] | None = None
        if self._path.is_file():
            self._read(self._path.read_text("utf-8"))

    def _read(self, text: str) -> None:
        for number, line in enumerate(text.splitlines(), 1):
            try:
                values = dict(load_json(line))
                about = values.pop("about")
                values["contender"] = Contender(**values["contender"])
                self.records.append(Record(**values))
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(
                    f"Line {number} of '{self._path}' must be a record that an earlier "
                    f"run has written ({error!r}). Name another file."
                ) from error
            self.about = self.about or about

    def check_machine(self, about: dict[str, Any]) -> None:
        """Refuses to mix machines.

        Raises:
            InputError: If the records come from other hardware or versions.
        """
        parts = ("hardware", "versions")
        if self.about and any(self.about[part] != about[part] for part in parts):
            raise InputError(
                "The file must be new, or have records of this machine and these "
                f"versions. Received: '{self._path}' with others."
            )

    def add(self, records: Sequence[Record], about: dict[str, Any]) -> None:
        """Appends records, on the disk before it returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = self._path.read_text("utf-8") if self._path.is_file() else ""
        lines = [
            json.dumps({**asdict(record), "about": about}) + "\n" for record in records
        ]
        replace_file(self._path, text + "".join(lines))
        self.records += records
        self.about = self.about or about

    def left(self, contenders: Iterable[Contender], rounds: int) -> list[Contender]:
        """Returns the contenders that have neither a note nor so many rounds yet."""
        notes = {record.contender for record in self.records if record.note}
        counts: dict[Contender, int] = {}
        for record in self.records:
            number = counts.get(record.contender, 0) + len(record.seconds)
            counts[record.contender] = number
        return [
            contender
            for contender in contenders
            if contender not in notes and counts.get(contender, 0) < rounds
        ]
