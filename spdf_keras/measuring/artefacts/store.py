"""Writes the measurements of artefacts to a folder: JSON, a table and a figure."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from spdf_keras.files import replace_file, replacing
from spdf_keras.folders import share
from spdf_keras.measuring.artefacts.figure import draw
from spdf_keras.measuring.artefacts.measure import Row
from spdf_keras.provenance import provenance


@contextmanager
def saving(folder: str | Path) -> Iterator[Callable[..., None]]:
    """Holds a folder while artefacts are measured, and gives the function that writes.

    The function writes `benchmark.json`, `benchmark.csv` and `benchmark.png` of rows,
    if there is one, and of `failures`, a list of JSON objects.

    Raises:
        InputError: If a file of such a name is somebody else's.
    """
    names = [f"benchmark.{kind}" for kind in ("json", "csv", "png")]
    with share(folder, names, _is_ours) as out:
        yield partial(_write, out)


def _write(
    folder: Path, rows: Sequence[Row], failures: Sequence[dict[str, str]] = ()
) -> None:
    if not rows:
        return
    records = [asdict(row) for row in rows]
    document = {**provenance(), "artefacts": records, "failures": [*failures]}
    replace_file(folder / "benchmark.json", json.dumps(document, indent=2) + "\n")
    with replacing(folder / "benchmark.csv", newline="") as file:
        writer = csv.writer(file)
        lines = [_flat(record) for record in records]
        writer.writerow(lines[0])
        writer.writerows(line.values() for line in lines)
    draw(rows, folder / "benchmark.png")


def _is_ours(path: Path) -> bool:
    """Whether the JSON file beside a file, or itself, was written here."""
    try:
        document = json.loads(path.with_suffix(".json").read_text("utf-8"))
        return "spdf_keras" in document["versions"] and "artefacts" in document
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Gives each number of a spread a column; token ids are left out."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat.update({f"{key}_{name}": number for name, number in value.items()})
        elif key != "token_ids":
            flat[key] = value
    return flat
