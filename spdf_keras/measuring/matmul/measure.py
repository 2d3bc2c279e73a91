"""Times backends in turns, and what their zeros buy."""

import gc
import math
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.measuring.matmul.backends import (
    BACKENDS,
    Backend,
    Call,
    UnsupportedError,
)
from spdf_keras.measuring.matmul.problem import Array, Problem, Shape, relative_error

FORWARD, GRADIENTS, TRAINING = "forward", "gradients", "forward and gradients"

# A call is repeated until it takes this long, so that the clock's steps are small.
_LEAST_SECONDS = 0.02
_MOST_REPEATS = 50
# Threads of the runtime before go on waiting for work, and take a core meanwhile.
_PAUSE_SECONDS = 0.02
# Wrong by more than rounding: such a time is not worth having.
_MOST_ERROR = 1e-4


@dataclass(frozen=True)
class Row:
    """One backend on one product.

    Attributes:
        shape: Sizes of the kernel, as text.
        sparsity: Its share of zeros.
        tokens: Rows of the activations.
        operation: `forward`, `gradients` (of the input and of the kernel) or both.
        backend: Name of the backend.
        seconds: Median; None where it was not measured.
        seconds_low: First quartile.
        seconds_high: Third quartile.
        speedup: Over the fastest dense backend of the same round, median.
        speedup_low: First quartile.
        speedup_high: Third quartile.
        theoretical: `1 / (1 - sparsity)`.
        rounds: How many there were.
        relative_error: To `tf.matmul`, of the result or the inputs' gradient.
        note: Why it was not measured.
    """

    shape: str
    sparsity: float
    tokens: int
    operation: str
    backend: str
    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    theoretical: float = 1.0
    rounds: int = 0
    relative_error: float | None = None
    note: str = ""


Cell = tuple[str, float, int]


def measure(
    shapes: Sequence[Shape],
    sparsities: Sequence[float],
    tokens: Sequence[int],
    backends: Sequence[str],
    rounds: int = 5,
    most_seconds: float = 30.0,
    known: Container[Cell] = (),
) -> Iterator[tuple[Cell, list[Row]]]:
    """Measures products, cell by cell: shape, sparsity, number of tokens.

    In each round all backends take turns; a speed-up is a ratio of one round.

    Args:
        shapes: Sizes of kernels.
        sparsities: Shares of zeros, in `[0, 1)`.
        tokens: Numbers of tokens.
        backends: Keys of `BACKENDS`, a dense one among them.
        rounds: Rounds, after one that warms up and checks results.
        most_seconds: A call that would take longer, judging by fewer tokens, is left
            out.
        known: Cells to leave out.

    Yields:
        A cell, and its rows.
    """
    for shape in shapes:
        for sparsity in sparsities:
            cells = [(str(shape), sparsity, number) for number in sorted(tokens)]
            if all(cell in known for cell in cells):
                continue
            problem = Problem(shape, sparsity)
            built, notes = _build(problem, backends)
            gauge = _Gauge(most_seconds)
            for cell in cells:
                if cell not in known:
                    # Not kept under a name, with which its arrays would stay too.
                    yield cell, _Turns(problem, cell, built, notes, gauge).rows(rounds)
            del built, problem
            gc.collect()  # large kernels, before the next ones are made


def _build(
    problem: Problem, names: Sequence[str]
) -> tuple[dict[str, Backend], dict[str, str]]:
    """Backends by name, and why others are missing."""
    built: dict[str, Backend] = {}
    notes: dict[str, str] = {}
    for name in names:
        kind = BACKENDS[name]
        try:
            _check_memory(kind.need(problem))
            built[kind.name] = kind(problem)
        except UnsupportedError as error:
            notes[kind.name] = str(error)
    return built, notes


def _check_memory(need: int) -> None:
    """Leaves out what would end this process, as the system does without a word."""
    free = free_bytes()
    if free is not None and need > free:
        raise UnsupportedError(
            f"needs {need / 2**30:.2g} GiB of memory, {free / 2**30:.2g} are free"
        )


def free_bytes() -> int | None:
    """Memory that can be had; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


class _Gauge:
    """Foresees how long calls take, from those with fewer tokens."""

    def __init__(self, most_seconds: float) -> None:
        self._most = most_seconds
        self._seen: dict[tuple[str, str], float] = {}

    def check(self, backend: str, operation: str, tokens: int) -> None:
        seconds = self._seen.get((backend, operation), 0.0) * tokens
        if seconds > self._most:
            raise UnsupportedError(f"would take about {seconds:.0f} s")

    def saw(self, backend: str, operation: str, tokens: int, seconds: float) -> None:
        self._seen[backend, operation] = seconds / tokens


@dataclass
class _Timed:
    call: Call
    repeats: int
    error: float
    seconds: list[float]


class _Turns:
    """All backends on one cell."""

    def __init__(
        self,
        problem: Problem,
        cell: Cell,
        built: dict[str, Backend],
        notes: dict[str, str],
        gauge: _Gauge,
    ) -> None:
        self._problem, self._cell, self._gauge = problem, cell, gauge
        self._dense = {name for name, backend in built.items() if backend.is_dense}
        self._timed: dict[tuple[str, str], _Timed] = {}
        self._notes = {
            (name, operation): note
            for name, note in notes.items()
            for operation in (FORWARD, GRADIENTS)
        }
        x, dy = problem.activations(cell[2])
        expected: dict[str, Array] = {
            FORWARD: tf.matmul(x, problem.kernel).numpy(),
            GRADIENTS: tf.matmul(dy, problem.kernel, transpose_b=True).numpy(),
        }
        for name, backend in built.items():
            makes = {
                FORWARD: partial(backend.forward, x),
                GRADIENTS: partial(backend.gradients, x, dy),
            }
            for operation, make in makes.items():
                try:
                    self._warm_up(name, operation, make, expected[operation])
                except UnsupportedError as error:
                    self._notes[name, operation] = str(error)

    def _warm_up(
        self, name: str, operation: str, make: Callable[[], Call], expected: Array
    ) -> None:
        tokens = self._cell[2]
        self._gauge.check(name, operation, tokens)
        call = make()
        result = call()
        first = result[0] if operation == GRADIENTS else result
        error = relative_error(first, expected)
        del result, first
        seconds = _seconds(call, 1)
        self._gauge.saw(name, operation, tokens, seconds)
        if error > _MOST_ERROR:
            raise UnsupportedError(f"wrong: relative error {error:.1e}")
        repeats = min(_MOST_REPEATS, math.ceil(_LEAST_SECONDS / seconds))
        self._timed[name, operation] = _Timed(call, repeats, error, [])

    def rows(self, rounds: int) -> list[Row]:
        """Times them in turns."""
        for _ in range(rounds):
            for timed in self._timed.values():
                time.sleep(_PAUSE_SECONDS)
                if timed.repeats > 1:
                    timed.call()  # others have emptied the caches
                timed.seconds.append(_seconds(timed.call, timed.repeats))
        rows = []
        for operation in (FORWARD, GRADIENTS, TRAINING):
            times = self._times(operation)
            dense = {name: t for name, t in times.items() if name in self._dense}
            if not dense:
                continue
            fastest = min(dense.values(), key=np.median)
            rows += [self._row(operation, n, t, fastest / t) for n, t in times.items()]
        theoretical = 1 / (1 - self._problem.sparsity)
        return rows + [
            Row(*self._cell, operation, name, theoretical=theoretical, note=note)
            for (name, operation), note in self._notes.items()
        ]

    def _times(self, operation: str) -> dict[str, Any]:
        """Seconds of every round, by backend."""
        if operation == TRAINING:
            forward, gradients = self._times(FORWARD), self._times(GRADIENTS)
            both = forward.keys() & gradients.keys()
            return {n: t + gradients[n] for n, t in forward.items() if n in both}
        return {
            name: np.array(timed.seconds)
            for (name, done), timed in self._timed.items()
            if done == operation
        }

    def _row(self, operation: str, name: str, times: Any, speedups: Any) -> Row:
        quartiles = (0.5, 0.25, 0.75)
        timed = self._timed.get((name, operation))
        seconds, low, high = np.quantile(times, quartiles).tolist()
        speedup, speedup_low, speedup_high = np.quantile(speedups, quartiles).tolist()
        return Row(
            *self._cell,
            operation,
            name,
            seconds=seconds,
            seconds_low=low,
            seconds_high=high,
            speedup=speedup,
            speedup_low=speedup_low,
            speedup_high=speedup_high,
            theoretical=1 / (1 - self._problem.sparsity),
            rounds=len(times),
            relative_error=timed.error if timed else None,
        )


def _seconds(call: Call, repeats: int) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def break_even(points: Sequence[tuple[float, float]]) -> float | None:
    """The sparsity from which on a backend is at least as fast as dense.

    Args:
        points: Sparsities, ascending, and speed-ups; between them it is linear.

    Returns:
        The sparsity; None if the last speed-up is below 1.

    Example:
        >>> break_even([(0.0, 0.5), (0.5, 1.5), (0.9, 4.0)])
        0.25
    """
    if not points or points[-1][1] < 1:
        return None
    found, right = points[-1]
    for sparsity, speedup in reversed(points):
        if speedup < 1:
            return sparsity + (found - sparsity) * (1 - speedup) / (right - speedup)
        found, right = sparsity, speedup
    return found
