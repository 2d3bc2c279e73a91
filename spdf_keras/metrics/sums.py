"""Scores of resampled items, from numbers of each item that add up.

Bootstrap resampling scores thousands of drawings of the same items. Texts are counted
once, and one matrix product sums the counts of all drawings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spdf_keras.metrics.checks import UndefinedScoreError


@dataclass(frozen=True)
class Sums:
    """Numbers of each item, from whose sums a score of any items is computed.

    Attributes:
        items: `(items, numbers)`, `float64`.
        value: Computes the score from the sums of some items; raises
            `UndefinedScoreError` where the official program fails.
    """

    items: NDArray[np.float64]
    value: Callable[[list[float]], float]

    def of(self, rows: Sequence[int]) -> float:
        """Computes the score of some items together.

        Args:
            rows: The numbers of the items.

        Raises:
            UndefinedScoreError: If the official program fails.

        Example:
            >>> mean = lambda sums: sums[0] / sums[1]
            >>> Sums(np.array([[1.0, 1.0], [2.0, 1.0], [6.0, 1.0]]), mean).of([0, 2])
            3.5
        """
        return self.value(self.items[list(rows)].sum(axis=0).tolist())

    def resampled(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes the score of each drawing of items.

        Args:
            draws: `(drawings, items)`: how often each drawing has each item.

        Returns:
            A score per drawing, `float64`; not a number where the program fails.

        Example:
            >>> sums = Sums(np.array([[1.0], [2.0], [6.0]]), lambda sums: sums[0] / 3)
            >>> sums.resampled(np.array([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0]])).tolist()
            [3.0, 2.0]
        """
        totals = draws @ self.items

        def value(sums: list[float]) -> float:
            try:
                return self.value(sums)
            except UndefinedScoreError:
                return float("nan")

        return np.array([value(row) for row in totals.tolist()])


def mean_sums(values: Sequence[float]) -> Sums:
    """The sums of a score that is the mean of the items' values."""
    items = np.stack([np.asarray(values, float), np.ones(len(values))], axis=1)
    return Sums(items, lambda sums: sums[0] / sums[1])
