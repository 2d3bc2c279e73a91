"""Contenders that take turns, and the spread of what was measured.

The load of the machine changes from minute to minute. In turns it meets every
contender alike, and a ratio of two neighbours, that is of one round, leaves it out.
"""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Spread:
    """A quantity over all rounds.

    Attributes:
        median: The median.
        low: The first quartile.
        high: The third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarises at least one value; quartiles between two values are linear.

        Example:
            >>> Spread.of([4.0, 1.0, 2.0])
            Spread(median=2.0, low=1.5, high=3.0)
        """
        return cls(*np.quantile(values, (0.5, 0.25, 0.75)).tolist())

    def show(self, scale: float = 1.0, form: str = ".3g", unit: str = "") -> str:
        """Formats the median with its unit, and the quartiles.

        Example:
            >>> Spread(2.0, 1.5, 3.0).show(10, unit=" ms")
            '20 ms (15-30)'
        """
        low, median, high = (
            format(scale * value, form) for value in (self.low, self.median, self.high)
        )
        return f"{median}{unit} ({low}-{high})"


def take_turns(
    calls: Mapping[Key, Callable[[], Result]],
    rounds: int,
    *,
    warm_up: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> dict[Key, list[Result]]:
    """Calls every contender once in each round.

    Args:
        calls: The contenders; each call returns what it measured.
        rounds: Rounds that count.
        warm_up: Rounds before them whose results are left out: they compile programs
            and fill caches.
        report: Gets the number of counted rounds that are done, and of all.

    Returns:
        The results of each contender, a result per counted round.

    Example:
        >>> take_turns({"a": lambda: 1, "b": lambda: 2}, rounds=3)
        {'a': [1, 1, 1], 'b': [2, 2, 2]}
    """
    results: dict[Key, list[Result]] = {key: [] for key in calls}
    for turn in range(1 - warm_up, rounds + 1):
        for key, call in calls.items():
            result = call()
            if turn > 0:
                results[key].append(result)
        if turn > 0 and report:
            report(turn, rounds)
    return results


def time_in_turns(
    calls: Mapping[Key, Callable[[], Any]], rounds: int, *, warm_up: int = 1
) -> dict[Key, list[float]]:
    """Measures the seconds of every call in each round; see `take_turns`."""
    timed = {key: partial(seconds, call) for key, call in calls.items()}
    return take_turns(timed, rounds, warm_up=warm_up)


def seconds(
    call: Callable[[], Any],
    repeats: int = 1,
    clock: Callable[[], float] | None = None,
) -> float:
    """Measures the seconds of one call, as the mean over `repeats` calls.

    Args:
        call: What is measured.
        repeats: Number of calls.
        clock: Returns seconds; wall time if None.
    """
    clock = clock or time.perf_counter
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def ratios(values: Sequence[float], others: Sequence[float]) -> Spread:
    """Divides the values of one contender by those of another, round by round.

    Example:
        >>> ratios([2.0, 8.0], [1.0, 2.0])
        Spread(median=3.0, low=2.5, high=3.5)
    """
    return Spread.of([a / b for a, b in zip(values, others, strict=True)])
