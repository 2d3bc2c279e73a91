"""Takes training steps of contenders in turns, group by group."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from spdf_keras.measuring.step.contenders import KERAS_NLP, OURS, Contender, Group
from spdf_keras.measuring.step.worker import WorkerError
from spdf_keras.measuring.turns import take_turns

# Threads of the step before wait for work for a while, and take a core meanwhile.
_PAUSE_SECONDS = 0.1
# For forecasts: the share of the peak that a step reaches, and the seconds until a
# process has taken its first step.
_SHARE = 0.6
_START_SECONDS = {"graph": 25.0, "eager": 15.0, "xla": 70.0, "compiled": 90.0}


class Steps(Protocol):
    """What takes steps; see `Worker`."""

    def versions(self) -> dict[str, str]:
        """See `Worker`."""

    def step(self) -> dict[str, float]:
        """See `Worker`."""

    def peak(self) -> float:
        """See `Worker`."""

    def close(self) -> None:
        """See `Worker`."""


@dataclass
class Record:
    """What one group of turns gave for a contender.

    Attributes:
        contender: The contender.
        seconds: Seconds of its step in each round.
        of_float32: Those over the dense float32 step of the same round.
        of_dense: Those over the dense step of the same precision and round.
        losses: Loss of each step.
        peaks: Operations per second of a matrix product of its precision, each round.
        versions: Versions of its libraries.
        note: Reason why it was not measured.
    """

    contender: Contender
    seconds: list[float] = field(default_factory=list)
    of_float32: list[float] = field(default_factory=list)
    of_dense: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""


def measure(
    groups: Iterable[Group],
    start: Callable[[Contender], Steps],
    rounds: int,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[list[Record]]:
    """Measures groups one after the other.

    A contender that cannot take steps gets a record with a note, and the others of its
    group are measured without it.

    Args:
        groups: The groups.
        start: Starts the process of a contender.
        rounds: Rounds of turns, after one step of each that warms up.
        report: Gets a line for each thing that is done.

    Yields:
        The records of a group.

    Raises:
        WorkerError: If a baseline cannot take steps, or a process ends in a round.
    """
    running: dict[Contender, Steps] = {}
    try:
        for group in groups:
            for contender in running.keys() - set(group.members):
                running.pop(contender).close()
            yield _measure(group, running, start, rounds, report)
    finally:
        for steps in running.values():
            steps.close()


def _measure(
    group: Group,
    running: dict[Contender, Steps],
    start: Callable[[Contender], Steps],
    rounds: int,
    report: Callable[[str], None],
) -> list[Record]:
    new = [contender for contender in group.members if contender not in running]
    # Starting is work for one core; the threads wait for the processes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = list(pool.map(partial(_start, running, start, report), new))
    notes = dict(zip(new, started, strict=True))
    for contender in group.baselines:
        if note := notes.get(contender):
            raise WorkerError(f"{contender.name}: {note}")
    members = [contender for contender in group.members if contender in running]
    calls: dict[Any, Callable[[], Any]] = {
        contender: partial(_step, running[contender]) for contender in members
    }
    calls["peak"] = running[group.baselines[-1]].peak
    results = take_turns(
        calls,
        rounds,
        warm_up=0,
        report=lambda done, total: report(f"round {done} of {total}"),
    )
    peaks = results.pop("peak")
    times = {who: [step["seconds"] for step in taken] for who, taken in results.items()}
    records = []
    for contender in members:
        float32, dense = (
            times[contender.baseline(precision)]
            for precision in ("float32", contender.precision)
        )
        seconds = times[contender]
        same = contender.precision == group.baselines[-1].precision
        records.append(
            Record(
                contender,
                seconds,
                [a / b for a, b in zip(seconds, float32, strict=True)],
                [a / b for a, b in zip(seconds, dense, strict=True)],
                [step["loss"] for step in results[contender]],
                peaks if same else [],
                running[contender].versions(),
            )
        )
    notes = {contender: note for contender, note in notes.items() if note}
    return records + [Record(contender, note=note) for contender, note in notes.items()]


def _start(
    running: dict[Contender, Steps],
    start: Callable[[Contender], Steps],
    report: Callable[[str], None],
    contender: Contender,
) -> str:
    """Starts a process and takes its first step; returns why it cannot."""
    report(f"starting {contender.name}")
    running[contender] = start(contender)
    try:
        running[contender].step()
    except WorkerError as error:
        running.pop(contender).close()
        return str(error)
    return ""


def _step(steps: Steps) -> dict[str, float]:
    time.sleep(_PAUSE_SECONDS)
    return steps.step()


def forecast(
    groups: Iterable[Group], rounds: int, peaks: Mapping[str, float]
) -> list[float]:
    """Estimates the seconds that each group takes.

    Args:
        groups: The groups.
        rounds: Rounds of turns.
        peaks: Operations per second of a matrix product, by precision.
    """
    estimates = []
    running: set[Contender] = set()
    for group in groups:
        seconds, starts = 0.0, []
        for contender in group.members:
            # XLA multiplies bfloat16 in float32 on processors.
            slow = contender.compiler == "xla" or contender.program == KERAS_NLP
            peak = peaks["float32" if slow else contender.precision]
            # Skipped zeros save less than their share of the operations.
            saved = 0.8 * (1 - contender.theory) if contender.program == OURS else 0.0
            dense = contender.baseline("float32").flops / peak / _SHARE
            new = contender not in running
            seconds += (1 - saved) * dense * (rounds + new)
            starts += [_START_SECONDS[contender.compiler]] * new
        running = set(group.members)
        # They start side by side, each on one core.
        together = min(os.cpu_count() or 1, len(starts) or 1)
        estimates.append(seconds + sum(starts) / together)
    return estimates
