"""Means over seeds."""

import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over seeds.

    Attributes:
        mean: Mean over seeds; several runs of one seed count as their mean.
        std: The sample standard deviation (n - 1); None for one seed.
        count: The number of seeds.
    """

    mean: float
    std: float | None
    count: int

    def scaled(self, factor: float) -> "Summary":
        """The same in another unit."""
        std = None if self.std is None else self.std * factor
        return Summary(self.mean * factor, std, self.count)


def summarise(values: Iterable[tuple[Hashable, float | None]]) -> Summary | None:
    """Summarises pairs of seed and value; values that are None do not count.

    Example:
        >>> summarise([(0, 1.0), (1, 2.0), (2, 3.0)])
        Summary(mean=2.0, std=1.0, count=3)
        >>> summarise([(0, 1.0), (0, 3.0), (1, None)])
        Summary(mean=2.0, std=None, count=1)
    """
    means = list(mean_by_seed(values).values())
    if not means:
        return None
    std = statistics.stdev(means) if len(means) > 1 else None
    return Summary(statistics.fmean(means), std, len(means))


def mean_by_seed(
    values: Iterable[tuple[Hashable, float | None]],
) -> dict[Hashable, float]:
    """Returns the mean value of each seed; values that are None do not count."""
    by_seed: dict[Hashable, list[float]] = defaultdict(list)
    for seed, value in values:
        if value is not None:
            by_seed[seed].append(value)
    return {seed: statistics.fmean(own) for seed, own in by_seed.items()}
