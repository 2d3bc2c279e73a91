"""What the commands show: tables, progress, JSON."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def load_tensorflow() -> None:
    """Imports TensorFlow without its start-up notes.

    They (oneDNN, no GPU found) come from native code, straight to the standard
    error stream, before any log level is read.
    """
    # Native errors that matter reach us as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow as tf

        import spdf_keras.keras2  # noqa: F401

        tf.config.list_physical_devices()
        tf.constant(0)  # the first use of a device has notes of its own
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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
    # Piped output has no width of its own: a table is never cut there.
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, markup=False).print(table)


def print_json(document: Any) -> None:
    """Prints one JSON document on one line."""
    print(json.dumps(document), flush=True)


def say(text: str) -> None:
    """Tells on the standard error stream what is being done."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step_progress(label: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Shows training: step, loss, steps per second, time left.

    Yields a function that takes the records of `StepLog`. Where the standard
    error stream is no terminal, a plain line is printed every 30 seconds.
    """
    from time import monotonic

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    shown: dict[str, str] = {}
    last = monotonic()
    with progress:
        task = progress.add_task(label, total=None, losses="")

        def report(record: dict[str, Any]) -> None:
            nonlocal last
            for key, name in (("loss", "loss"), ("validation_loss", "validation")):
                if key in record:
                    shown[key] = f"{name} {record[key]:.3f}"
            losses, total = "  ".join(shown.values()), record["total_steps"]
            progress.update(task, completed=record["step"], total=total, losses=losses)
            finished = record["step"] >= total
            if not console.is_terminal and (monotonic() - last > 30 or finished):
                say(f"{label}: step {record['step']} of {total}, {losses}")
                last = monotonic()

        yield report


@contextmanager
def corpus_progress(label: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Shows the preparation of a corpus: share of the files, MB/s, tokens/s.

    Yields a function that takes the reports of `prepare`. Where the standard error
    stream is no terminal, a plain line is printed every 30 seconds.
    """
    from time import monotonic

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rates]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    first: dict[str, Any] = {}
    start = last = monotonic()
    with progress:
        task = progress.add_task(label, total=None, rates="")

        def report(record: dict[str, Any]) -> None:
            nonlocal start, last
            now = monotonic()
            if not first:  # what an earlier run did is no speed of this one
                first.update(record)
                start = now
            seconds = max(now - start, 1e-9)
            mega_bytes = (record["bytes"] - first["bytes"]) / seconds / 1e6
            tokens = (record["tokens"] - first["tokens"]) / seconds
            rates = f"{mega_bytes:.1f} MB/s  {tokens:,.0f} tokens/s"
            done, total = record["file_bytes"], record["total_bytes"]
            progress.update(task, completed=done, total=total, rates=rates)
            if not console.is_terminal and now - last > 30:
                share = done / max(total, 1)
                say(f"{label}: {share:.1%}, {record['tokens']:,} tokens, {rates}")
                last = now

        yield report
