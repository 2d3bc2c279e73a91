"""The output of the commands: tables, progress, JSON."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def load_tensorflow(start: bool = True) -> None:
    """Imports TensorFlow without its start-up notes, and starts it.

    If `start` is false, its devices can still be set up. The notes (oneDNN, no GPU
    found) come from native code, straight to the standard error stream, before
    TensorFlow reads any log level.
    """
    # Native errors that matter reach Python as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from spdf_keras.training.stopping import stop_requests

    # The import swallows exceptions, also interrupts: signals wait for its end.
    with silenced_errors(), stop_requests() as request:
        _start_tensorflow(start)
    if request.signal:
        signal.raise_signal(request.signal)


@contextmanager
def silenced_errors() -> Iterator[None]:
    """Discards the standard error stream, including the output of native code."""
    sys.stderr.flush()
    stream, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stream, 2)
        os.close(stream)
        os.close(nowhere)


def _start_tensorflow(start: bool) -> None:
    import tensorflow as tf

    import spdf_keras.keras2  # noqa: F401

    tf.config.list_physical_devices()
    if start:
        tf.constant(0)  # the first use of a device prints notes of its own


def start_anew() -> None:
    """Runs the command that this process runs from its beginning, in its place."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Prints a table; columns after the first are aligned to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    # Piped output has no width, and a table must not be cut there.
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, markup=False).print(table)


def print_json(document: Any) -> None:
    """Prints one JSON document on one line."""
    print(json.dumps(document), flush=True)


def say(text: str) -> None:
    """Prints a sentence on the standard error stream."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step_progress(label: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Shows training: step, loss, speed, exaFLOPs, time left.

    Yields a function that takes the records of `StepLog`. Where the standard
    error stream is no terminal, a plain line is printed every 30 seconds.
    """
    shown: dict[str, str] = {}
    with _progress_bar(label) as show:

        def report(record: dict[str, Any]) -> None:
            for key, name in (("loss", "loss"), ("validation_loss", "validation")):
                if key in record:
                    shown[key] = f"{name} {record[key]:.3f}"
            if "density" in record:  # a record of the masks, which do not change
                return
            if "tokens_per_second" in record:
                shown["speed"] = (
                    f"{record['tokens_per_second']:,.0f} tokens/s  "
                    f"{record['utilization']:.0%} of peak  "
                    f"{record['exaflops']:.3g} exaFLOPs "
                    f"(dense {record['dense_exaflops']:.3g})"
                )
            if "seconds_left" in record:
                left = timedelta(seconds=round(record["seconds_left"]))
                shown["left"] = f"{left} left"
            step, total = record["step"], record["total_steps"]
            show(step, total, f"step {step} of {total}  " + "  ".join(shown.values()))

        yield report


@contextmanager
def corpus_progress(label: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Shows the preparation of a corpus: share of the files, MB/s, tokens/s.

    Yields a function that takes the reports of `prepare`. Where the standard error
    stream is no terminal, a plain line is printed every 30 seconds.
    """
    first: dict[str, Any] = {}
    start = monotonic()
    with _progress_bar(label) as show:

        def report(record: dict[str, Any]) -> None:
            nonlocal start
            if not first:  # the speed leaves out the work of an earlier run
                first.update(record)
                start = monotonic()
            seconds = max(monotonic() - start, 1e-9)
            mega_bytes = (record["bytes"] - first["bytes"]) / seconds / 1e6
            tokens = (record["tokens"] - first["tokens"]) / seconds
            rates = f"{mega_bytes:.1f} MB/s  {tokens:,.0f} tokens/s"
            text = f"{record['tokens']:,} tokens  {rates}"
            show(record["file_bytes"], record["total_bytes"], text)

        yield report


@contextmanager
def work_progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how much of some work is done.

    Yields a function of the work done and the whole work, in a unit. Where the standard
    error stream is no terminal, a plain line is printed every 30 seconds.
    """
    with _progress_bar(label) as show:
        yield lambda done, total: show(done, total, f"{done:,} of {total:,} {unit}")


@contextmanager
def file_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Shows the download of several files.

    Yields a function of a file's name, its bytes that have come, and all its bytes.
    Where the standard error stream is no terminal, a plain line is printed per file.
    """
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    progress = _progress(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bars = {}
    with progress:

        def report(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
                if not progress.console.is_terminal:
                    say(f"{name}: {total:,} bytes")
            progress.update(bars[name], completed=done)

        yield report


def _progress(*columns: "ProgressColumn") -> "Progress":
    """Labelled bars on the standard error stream, shown if it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def _progress_bar(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """Shows one bar, or plain lines where the standard error stream is no terminal.

    Yields a function of the work done, the whole work, and a text beside the bar.
    """
    from rich.progress import (
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    progress = _progress(
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    last, waiting = monotonic(), ""
    with progress:
        task = progress.add_task(label, total=None, text="")

        def show(done: int, total: int, text: str) -> None:
            nonlocal last, waiting
            progress.update(task, completed=done, total=total, text=text)
            waiting = f"{label}: {done / max(total, 1):.1%}, {text}"
            if monotonic() - last > 30:
                tell()

        def tell() -> None:
            nonlocal last, waiting
            if waiting and not progress.console.is_terminal:
                say(waiting)
            last, waiting = monotonic(), ""

        try:
            yield show
        finally:
            tell()  # several records of the last step are one line
