"""Keeps measurements, so that a stopped one goes on."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

from spdf_keras.errors import InputError
from spdf_keras.files import replace_file
from spdf_keras.folders import share
from spdf_keras.measuring.matmul.figure import draw
from spdf_keras.measuring.matmul.rows import FORWARD, TRAINING, Cell, Row
from spdf_keras.parsing import load_json
from spdf_keras.provenance import provenance

# File name of the figure of an operation in a precision.
_FIGURES = {
    (FORWARD, "float32"): "matmul_forward",
    (TRAINING, "float32"): "matmul_training",
    (FORWARD, "bfloat16"): "matmul_forward_bfloat16",
    (TRAINING, "bfloat16"): "matmul_training_bfloat16",
}


class Store:
    """Rows in a folder: `matmul.json`, `matmul.csv` and two figures per precision.

    Args:
        folder: The folder; it is made. None keeps nothing.

    Attributes:
        rows: All rows, those of earlier runs first.

    Raises:
        InputError: If the folder has rows of another machine or other versions.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = Path(folder) if folder else None
        self._about = provenance()
        self.rows: list[Row] = []
        if self._folder and (self._folder / "matmul.json").is_file():
            self._read(self._folder / "matmul.json")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the folder while rows are added.

        Raises:
            InputError: If another process measures into it, or it has files of these
                names and no `matmul.json`.
        """
        if not self._folder:
            yield
            return
        names = ["matmul.json", "matmul.csv", *(f"{n}.png" for n in _FIGURES.values())]
        has_rows = (self._folder / "matmul.json").is_file()
        with share(self._folder, names, lambda _: has_rows):
            yield

    def _read(self, path: Path) -> None:
        try:
            document = load_json(path.read_text("utf-8"))
            rows = [Row(**record) for record in document["rows"]]
            parts = ("hardware", "versions")
            same = all(document[part] == self._about[part] for part in parts)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"'{path}' must be what an earlier run has written ({error!r}). Name "
                "another folder."
            ) from error
        if not same:
            raise InputError(
                "--out must be a new folder, or have rows of this machine and these "
                f"versions. Received: '{path.parent}' with others."
            )
        self.rows = rows

    @property
    def cells(self) -> set[Cell]:
        """The cells that have been measured."""
        return {row.cell for row in self.rows}

    def add(self, rows: Sequence[Row]) -> None:
        """Keeps the rows of a cell, on the disk before it returns."""
        self.rows += rows
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            document = {**self._about, "rows": [asdict(row) for row in self.rows]}
            text = json.dumps(document, indent=1) + "\n"
            replace_file(self._folder / "matmul.json", text)

    def finish(self) -> list[Path]:
        """Writes table and figures; returns the files."""
        if not self._folder or not self.rows:
            return []
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        table = self._folder / "matmul.csv"
        replace_file(table, text.getvalue())
        written = [table]
        for (operation, precision), name in _FIGURES.items():
            rows = [row for row in self.rows if row.precision == precision]
            if any(row.operation == operation and row.speedup for row in rows):
                written.append(self._folder / f"{name}.png")
                draw(rows, operation, self._about["hardware"], written[-1])
        return written
