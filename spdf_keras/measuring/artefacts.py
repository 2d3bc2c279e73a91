"""Measures exported artefacts side by side: size, load time, memory, speed, error."""

import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from spdf_keras.errors import ExportError, InputError
from spdf_keras.export import runners
from spdf_keras.export.card import card_path
from spdf_keras.export.files import size_bytes
from spdf_keras.files import replace_file, replacing
from spdf_keras.folders import share
from spdf_keras.provenance import provenance


@dataclass(frozen=True)
class Measured:
    """A quantity of one artefact over all rounds.

    Attributes:
        median: The median.
        low: The first quartile.
        high: The third.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Measured":
        low, high = np.quantile(values, (0.25, 0.75)).tolist()
        return cls(statistics.median(values), low, high)

    def show(self, scale: float = 1.0) -> str:
        """Median and quartiles as text."""
        low, median, high = (
            f"{scale * x:.3g}" for x in (self.low, self.median, self.high)
        )
        return f"{median} ({low}-{high})"


@dataclass(frozen=True)
class Row:
    """What was measured of one artefact.

    Attributes:
        path: The artefact.
        format: Its format, from its card.
        size_bytes: Size of the file or folder.
        relative_error: Of its card; None where it was not run.
        load_s: Seconds from nothing to two tokens, compilation included.
        memory_bytes: Peak memory above that of the runtime without a model.
        first_token_s: Seconds to the first new token of a prompt.
        token_s: Seconds of each further token.
        token_ids: The continuation.
    """

    path: str
    format: str
    size_bytes: int
    relative_error: float | None
    load_s: Measured
    memory_bytes: float
    first_token_s: Measured
    token_s: Measured
    token_ids: list[int]

    columns: ClassVar[tuple[str, ...]] = (
        *("artefact", "format", "size (MB)", "load (s)", "memory (MB)"),
        *("first token (ms)", "ms per token", "tokens/s", "error"),
    )

    def cells(self) -> tuple[str, ...]:
        """The row of a table with the header `columns`."""
        error = self.relative_error
        return (
            Path(self.path).name,
            self.format,
            f"{self.size_bytes / 1e6:.1f}",
            self.load_s.show(),
            f"{self.memory_bytes / 1e6:.0f}",
            self.first_token_s.show(1e3),
            self.token_s.show(1e3),
            f"{1 / self.token_s.median:.1f}",
            "unknown" if error is None else f"{error:.1e}",
        )


def compare_artefacts(
    artefacts: Sequence[str | Path],
    rounds: int = 5,
    prompt_tokens: int = 16,
    new_tokens: int = 32,
    report: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Measures artefacts in turns, each in a process of its own.

    In each round every artefact is loaded and continues one prompt, while the others
    wait; what else the machine does then meets all of them alike.

    Args:
        artefacts: Files and folders that `to_tflite`, `to_xla` (with `prefill` and
            `decode`) and `to_saved_model` (with `generate`) wrote.
        rounds: Rounds.
        prompt_tokens: Tokens of the prompt, drawn at random.
        new_tokens: Tokens to add to it.
        report: Gets the rounds that are done, and their number.

    Returns:
        A row per artefact, in their order.

    Raises:
        InputError: If an argument is out of range, or a path is no such artefact.
        ExportError: If an artefact does not run.
    """
    for name, value in (("rounds", rounds), ("prompt_tokens", prompt_tokens)):
        if value < 1:
            raise InputError(f"`{name}` must be positive. Received: {name}={value}.")
    if new_tokens < 2:
        raise InputError(
            f"`new_tokens` must be at least 2. Received: new_tokens={new_tokens}."
        )
    kinds = [artefact_kind(path) for path in artefacts]
    with ExitStack() as stack:
        children = [
            stack.enter_context(_Child(kind, Path(path)))
            for kind, path in zip(kinds, artefacts, strict=True)
        ]
        fewest = min((child.vocabulary_size for child in children), default=2)
        random = np.random.default_rng(0)
        prompt = random.integers(fewest, size=prompt_tokens).tolist()
        for turn in range(rounds):
            for child in children:
                child.measure(prompt, new_tokens)
            if report:
                report(turn + 1, rounds)
        return [child.row() for child in children]


def artefact_kind(path: str | Path) -> str:
    """`tflite`, `xla` or `saved_model`.

    Raises:
        InputError: If it is none that can be measured.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".tflite":
        return "tflite"
    if (path / "artefact.json").is_file():
        programs = json.loads((path / "artefact.json").read_text())["programs"]
        if {"prefill", "decode"} <= programs.keys():
            return "xla"
        raise InputError(
            f"An XLA artefact must have prefill and decode. Received: '{path}' with "
            f"{', '.join(programs)}. `run_xla.py --benchmark` times these."
        )
    if (path / "saved_model.pb").is_file():
        card = _card(path)
        if card.get("format") != "saved_model_text":
            return "saved_model"
        raise InputError(
            f"A SavedModel must take token ids. Received: '{path}', which takes text."
        )
    raise InputError(
        "An artefact must be a .tflite file, or a folder with artefact.json or "
        f"saved_model.pb. Received: '{path}'."
    )


class _Child:
    """A process that measures one artefact, and what it has told so far."""

    def __init__(self, kind: str, path: Path) -> None:
        self._path, self._kind = path, kind
        self._loads: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []

    def __enter__(self) -> "_Child":
        script = Path(runners.__path__[0]) / "measure.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), self._kind, str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self._receive()
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    @property
    def vocabulary_size(self) -> int:
        """Of the model, from the artefact's card; 2 if it has none."""
        return int(_card(self._path).get("vocabulary_size", 2))

    def measure(self, prompt: list[int], new_tokens: int) -> None:
        """Loads the artefact, and continues the prompt."""
        self._loads.append(self._ask({"load": True, "prompt": prompt}))
        order = {"prompt": prompt, "new_tokens": new_tokens}
        self._results.append(self._ask(order))

    def row(self) -> Row:
        """All rounds together."""
        card = _card(self._path)
        return Row(
            path=str(self._path),
            format=card.get("format", self._kind),
            size_bytes=size_bytes(self._path),
            relative_error=card.get("relative_error"),
            load_s=Measured.of([load["load_s"] for load in self._loads]),
            # Of the first round: later ones have freed memory that is still theirs.
            memory_bytes=self._results[0]["memory_bytes"],
            first_token_s=Measured.of([r["first_token_s"] for r in self._results]),
            token_s=Measured.of([r["token_s"] for r in self._results]),
            token_ids=self._results[0]["token_ids"],
        )

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        result = json.loads(line) if line else {"error": "its process has ended."}
        if "error" in result:
            raise ExportError(f"'{self._path}' cannot be measured: {result['error']}")
        return dict(result)


def _card(path: Path) -> dict[str, Any]:
    file = card_path(path)
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def save(rows: Sequence[Row], folder: str | Path) -> None:
    """Writes `benchmark.json`, `benchmark.csv` and `benchmark.png` to a folder."""
    with saving(folder) as write:
        write(rows)


@contextmanager
def saving(folder: str | Path) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Holds a folder as `save` does, from before a measurement, and gives its writer.

    Raises:
        InputError: If a file of a name that `save` writes is somebody else's.
    """
    names = [f"benchmark.{kind}" for kind in ("json", "csv", "png")]
    with share(folder, names, _is_ours) as out:
        yield partial(_write, out)


def _write(folder: Path, rows: Sequence[Row]) -> None:
    records = [asdict(row) for row in rows]
    document = {**provenance(), "artefacts": records}
    replace_file(folder / "benchmark.json", json.dumps(document, indent=2) + "\n")
    with replacing(folder / "benchmark.csv", newline="") as file:
        writer = csv.writer(file)
        flat = [_flat(record) for record in records]
        writer.writerow(flat[0])
        writer.writerows(line.values() for line in flat)
    _draw(rows, folder / "benchmark.png")


def _is_ours(path: Path) -> bool:
    """Whether the JSON file beside a file, or itself, is one that `save` wrote."""
    try:
        document = json.loads(path.with_suffix(".json").read_text("utf-8"))
        return "spdf_keras" in document["versions"] and "artefacts" in document
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat.update({f"{key}_{name}": number for name, number in value.items()})
        elif key != "token_ids":
            flat[key] = value
    return flat


def _draw(rows: Sequence[Row], path: Path) -> None:
    """One panel per quantity, one bar per artefact."""
    from matplotlib.figure import Figure

    names = [f"{Path(row.path).name}\n{row.format}" for row in rows]
    panels: list[tuple[str, list[float], list[Measured] | None]] = [
        ("size (MB)", [row.size_bytes / 1e6 for row in rows], None),
        ("memory (MB)", [row.memory_bytes / 1e6 for row in rows], None),
        ("load (s)", [row.load_s.median for row in rows], [r.load_s for r in rows]),
        (
            "first token (s)",
            [row.first_token_s.median for row in rows],
            [row.first_token_s for row in rows],
        ),
        ("per token (s)", [r.token_s.median for r in rows], [r.token_s for r in rows]),
    ]
    figure = Figure((3.2 * len(panels), 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, values, spread) in zip(axes, panels, strict=True):
        axis.barh(names, values, color="#4878a8")
        if spread:
            low = [m.median - m.low for m in spread]
            high = [m.high - m.median for m in spread]
            axis.errorbar(
                values, names, xerr=[low, high], fmt="none", ecolor="black", capsize=3
            )
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
