"""Means over seeds, and numbers as the tables write them."""

import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Mean and spread over seeds.

    Attributes:
        mean: Over seeds; several runs of one seed count as their mean.
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

    def text(self, decimals: int) -> str:
        """A cell of a table.

        Example:
            >>> Summary(67.493, 0.6, 3).text(2), Summary(0.44, None, 1).text(3)
            ('67.49 ± 0.60 (3)', '0.440 ± - (1)')
        """
        spread = "-" if self.std is None else f"{self.std:.{decimals}f}"
        return f"{self.mean:.{decimals}f} ± {spread} ({self.count})"


def summarise(values: Iterable[tuple[Hashable, float | None]]) -> Summary | None:
    """Summarises values by seed; those that are None do not count.

    Example:
        >>> summarise([(0, 1.0), (1, 2.0), (2, 3.0)])
        Summary(mean=2.0, std=1.0, count=3)
        >>> summarise([(0, 1.0), (0, 3.0), (1, None)])
        Summary(mean=2.0, std=None, count=1)
    """
    by_seed: dict[Hashable, list[float]] = defaultdict(list)
    for seed, value in values:
        if value is not None:
            by_seed[seed].append(value)
    means = [statistics.fmean(found) for found in by_seed.values()]
    if not means:
        return None
    std = statistics.stdev(means) if len(means) > 1 else None
    return Summary(statistics.fmean(means), std, len(means))


def number_ranges(numbers: Iterable[int]) -> str:
    """Numbers in order, neighbours joined.

    Example:
        >>> number_ranges([5, 1, 2, 3, 7, 8])
        '1-3, 5, 7, 8'
    """
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run))
        for run in ranges
    )


def percent(sparsity: float | None) -> str:
    """A sparsity as the paper writes it.

    Example:
        >>> percent(0.75), percent(0.875), percent(None)
        ('75%', '87.5%', 'not recorded')
    """
    return "not recorded" if sparsity is None else f"{sparsity * 100:g}%"


def scientific(value: float) -> str:
    """A number as the paper's tables write it.

    Example:
        >>> scientific(1.986e12), scientific(126_183), scientific(40)
        ('1.99e12', '1.26e5', '40')
    """
    if abs(value) < 1e3:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def exaflops(flops: float) -> str:
    """FLOPs in units of 1e18.

    Example:
        >>> exaflops(2.43e18), exaflops(5.16e16), exaflops(3.16e13)
        ('2.43', '0.052', '3.16e-5')
    """
    value = flops / 1e18
    if value >= 0.1:
        return f"{value:.2f}"
    if value >= 0.005:
        return f"{value:.3f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"
