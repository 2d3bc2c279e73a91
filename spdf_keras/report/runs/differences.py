"""Differences between groups of runs, paired by seed, with intervals."""

import math
import statistics
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.means import mean_by_seed


@dataclass(frozen=True)
class Difference:
    """The mean of differences of pairs, with its interval of 95 %.

    Attributes:
        mean: The mean.
        low: Lower end of the interval by Student's t; None for one pair.
        high: Upper end.
        p: Probability of a mean so far from zero if there is no difference; None for
            one pair.
        count: Number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    count: int

    @property
    def is_resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return (
            self.low is not None
            and self.high is not None
            and (self.low > 0 or self.high < 0)
        )

    def scaled(self, factor: float) -> "Difference":
        """The same in another unit."""
        low, high = (
            None if end is None else end * factor for end in (self.low, self.high)
        )
        return Difference(self.mean * factor, low, high, self.p, self.count)


def difference(
    values: Iterable[tuple[Hashable, float | None]],
    others: Iterable[tuple[Hashable, float | None]],
) -> Difference | None:
    """Compares pairs of seed and value with others of the same seeds.

    Several values of one seed count as their mean, and a seed without a partner does
    not count.

    Returns:
        None if there is no pair.

    Example:
        >>> difference([(0, 3.0), (1, 5.0), (2, 7.0)], [(0, 1.0), (1, 2.0), (2, 3.0)])
        Difference(mean=3.0, low=0.51..., high=5.48..., p=0.035..., count=3)
    """
    own, theirs = mean_by_seed(values), mean_by_seed(others)
    gaps = [own[seed] - theirs[seed] for seed in own if seed in theirs]
    if not gaps:
        return None
    mean, count = statistics.fmean(gaps), len(gaps)
    if count == 1:
        return Difference(mean, None, None, None, 1)
    from scipy import stats

    error = statistics.stdev(gaps) / math.sqrt(count)
    reach = error * float(stats.t.ppf(0.975, count - 1))
    if not error:
        return Difference(mean, mean, mean, 0.0 if mean else 1.0, count)
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return Difference(mean, mean - reach, mean + reach, p, count)


def score_difference(group: Group, other: Group, name: str) -> Difference | None:
    """Compares a score of two groups of evaluations, of all inputs."""
    return difference(_values(group, name), _values(other, name))


def _values(group: Group, name: str) -> list[tuple[Hashable, float | None]]:
    pairs = zip(group.runs, group.evaluations, strict=True)
    # Masks of the dense model have no seed, so pre-trainings pair by their data's.
    return [(run.origin.seed, evaluation.scores.get(name)) for run, evaluation in pairs]
