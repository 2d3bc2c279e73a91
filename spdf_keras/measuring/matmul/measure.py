"""Times backends on matrix products in turns, and computes their speed-ups."""

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

from spdf_keras.measuring import turns
from spdf_keras.measuring.matmul.backend import Backend, Call, UnsupportedError
from spdf_keras.measuring.matmul.backends import BACKENDS
from spdf_keras.measuring.matmul.forecast import Forecast
from spdf_keras.measuring.matmul.problem import Array, Problem, Shape, relative_error
from spdf_keras.measuring.matmul.rows import FORWARD, GRADIENTS, TRAINING, Cell, Row
from spdf_keras.measuring.turns import Spread, ratios, take_turns

# A call is repeated until it takes this long, so that the clock's steps are small.
_LEAST_SECONDS = 0.02
_MOST_REPEATS = 50
# Threads of the backend before wait for work for a while, and take a core meanwhile.
_PAUSE_SECONDS = 0.02
# A larger error is no rounding error, and the time of a wrong result means nothing. A
# bfloat16 number is rounded by up to 2**-9 of its size.
_MOST_ERROR = {"float32": 1e-4, "bfloat16": 1e-2}


def measure(
    shapes: Sequence[Shape],
    sparsities: Sequence[float],
    tokens: Sequence[int],
    backends: Sequence[str],
    *,
    precision: str = "float32",
    rounds: int = 5,
    most_seconds: float = 30.0,
    known: Container[Cell] = (),
) -> Iterator[tuple[Cell, list[Row]]]:
    """Measures products, cell by cell: shape, sparsity, number of tokens.

    In each round all backends take turns; a speed-up is a ratio of one round.

    Args:
        shapes: Sizes of kernels.
        sparsities: Fractions of zeros, in `[0, 1)`.
        tokens: Numbers of tokens.
        backends: Keys of `BACKENDS`, a dense one among them.
        precision: `float32` or `bfloat16`, of weights and activations; sums and the
            gradients of kept weights are float32.
        rounds: Rounds, after one that warms up and checks results.
        most_seconds: A call is left out if its time with fewer tokens says that it
            would take longer.
        known: Cells to leave out.

    Yields:
        A cell, and its rows.
    """
    for shape in shapes:
        for sparsity in sparsities:
            cells = [
                (str(shape), sparsity, number, precision) for number in sorted(tokens)
            ]
            if all(cell in known for cell in cells):
                continue
            problem = Problem(shape, sparsity, precision)
            built, notes = _build(problem, backends)
            forecast = Forecast(most_seconds)
            for cell in cells:
                if cell not in known:
                    # Only the rows get a name: arrays of a cell go before the next.
                    rows = _Turns(problem, cell, built, notes, forecast).rows(rounds)
                    yield cell, rows
            del built, problem
            gc.collect()  # frees large kernels before the next ones are made


def _build(
    problem: Problem, names: Sequence[str]
) -> tuple[dict[str, Backend], dict[str, str]]:
    """Builds backends; returns them by name, and why others are missing."""
    built: dict[str, Backend] = {}
    notes: dict[str, str] = {}
    for name in names:
        kind = BACKENDS[name]
        try:
            if problem.precision in kind.lacks:
                raise UnsupportedError(kind.lacks[problem.precision])
            _check_memory(kind.need(problem))
            built[kind.name] = kind(problem)
        except UnsupportedError as error:
            notes[kind.name] = str(error)
    return built, notes


def _check_memory(need: int) -> None:
    """Refuses what does not fit: the system would kill this process without a word."""
    free = free_bytes()
    if free is not None and need > free:
        raise UnsupportedError(
            f"needs {need / 2**30:.2g} GiB of memory, {free / 2**30:.2g} are free"
        )


def free_bytes() -> int | None:
    """Returns the available memory; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(sizes[0]) if sizes else None


@dataclass
class _Contender:
    """One operation of one backend.

    Attributes:
        call: Runs it.
        repeats: Calls that are timed together.
        error: Relative error of its result.
        seconds: Seconds of a call in each round.
    """

    call: Call
    repeats: int
    error: float
    seconds: list[float]

    def measure(self) -> float:
        """Measures the seconds of a call, once other contenders are at rest."""
        time.sleep(_PAUSE_SECONDS)
        if self.repeats > 1:
            self.call()  # fills the caches, which others have emptied
        return turns.seconds(self.call, self.repeats)


class _Turns:
    """All backends on one cell."""

    def __init__(
        self,
        problem: Problem,
        cell: Cell,
        built: dict[str, Backend],
        notes: dict[str, str],
        forecast: Forecast,
    ) -> None:
        self._problem, self._cell, self._forecast = problem, cell, forecast
        self._costs = [
            (name, cost, seconds)
            for name, backend in built.items()
            for cost, seconds in backend.costs.items()
        ]
        self._dense = {name for name, backend in built.items() if backend.is_dense}
        self._contenders: dict[tuple[str, str], _Contender] = {}
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
        self._forecast.check(name, operation, tokens)
        call = make()
        result = call()
        first = result[0] if operation == GRADIENTS else result
        error = relative_error(first, expected)
        del result, first
        seconds = turns.seconds(call)
        self._forecast.add(name, operation, tokens, seconds)
        if error > _MOST_ERROR[self._problem.precision]:
            raise UnsupportedError(f"wrong: relative error {error:.1e}")
        repeats = min(_MOST_REPEATS, math.ceil(_LEAST_SECONDS / seconds))
        self._contenders[name, operation] = _Contender(call, repeats, error, [])

    def rows(self, rounds: int) -> list[Row]:
        """Times them in turns."""
        calls = {key: one.measure for key, one in self._contenders.items()}
        for key, seconds in take_turns(calls, rounds, warm_up=0).items():
            self._contenders[key].seconds = seconds
        rows = []
        for operation in (FORWARD, GRADIENTS, TRAINING):
            times = self._times(operation)
            dense = {name: t for name, t in times.items() if name in self._dense}
            if not dense:
                continue
            fastest = min(dense.values(), key=np.median)
            rows += [self._row(operation, n, t, fastest) for n, t in times.items()]
        rows += [
            self._new_row(operation, name, note=note)
            for (name, operation), note in self._notes.items()
        ]
        return rows + [
            self._new_row(cost, name, seconds=seconds)
            for name, cost, seconds in self._costs
        ]

    def _new_row(self, operation: str, name: str, **values: Any) -> Row:
        shape, sparsity, tokens, precision = self._cell
        return Row(
            *(shape, sparsity, tokens, operation, name),
            theoretical=1 / (1 - self._problem.sparsity),
            precision=precision,
            **values,
        )

    def _times(self, operation: str) -> dict[str, Any]:
        """Seconds of every round, by backend."""
        if operation == TRAINING:
            forward, gradients = self._times(FORWARD), self._times(GRADIENTS)
            both = forward.keys() & gradients.keys()
            return {n: t + gradients[n] for n, t in forward.items() if n in both}
        return {
            name: np.array(contender.seconds)
            for (name, its_operation), contender in self._contenders.items()
            if its_operation == operation
        }

    def _row(self, operation: str, name: str, times: Any, fastest: Any) -> Row:
        contender = self._contenders.get((name, operation))
        seconds, speedup = Spread.of(times), ratios(fastest, times)
        return self._new_row(
            operation,
            name,
            seconds=seconds.median,
            seconds_low=seconds.low,
            seconds_high=seconds.high,
            speedup=speedup.median,
            speedup_low=speedup.low,
            speedup_high=speedup.high,
            rounds=len(times),
            relative_error=contender.error if contender else None,
        )
