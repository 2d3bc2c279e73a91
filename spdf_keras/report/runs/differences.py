"""Differences between groups of runs, paired by seed, with intervals."""

import math
import statistics
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.means import mean_by_seed
from spdf_keras.report.runs.records import RunRecord
from spdf_keras.report.runs.resampling import Resamples


@dataclass(frozen=True)
class Interval:
    """An interval of 95 %, and the test that goes with it.

    Attributes:
        low: Lower end.
        high: Upper end.
        p: Probability of a difference so far from zero if there is none.
    """

    low: float
    high: float
    p: float

    @property
    def excludes_zero(self) -> bool:
        """Whether both ends have one sign."""
        return self.low > 0 or self.high < 0

    def scaled(self, factor: float) -> "Interval":
        """The same in another unit."""
        return Interval(self.low * factor, self.high * factor, self.p)


@dataclass(frozen=True)
class Difference:
    """The mean of differences of pairs, with its intervals.

    Attributes:
        mean: The mean.
        count: Number of pairs.
        seeds: Interval over seeds by Student's t; None for one pair.
        inputs: Interval over test inputs by the bootstrap, if there is one.
        gaps: The difference of each pair.
    """

    mean: float
    count: int
    seeds: Interval | None
    inputs: Interval | None = None
    gaps: tuple[float, ...] = ()

    @property
    def is_resolved(self) -> bool:
        """Whether no interval includes zero; one pair of seeds resolves nothing."""
        if self.seeds is None:
            return False
        known = [self.seeds, *([self.inputs] if self.inputs else [])]
        return all(interval.excludes_zero for interval in known)

    def scaled(self, factor: float) -> "Difference":
        """The same in another unit."""
        return Difference(
            self.mean * factor,
            self.count,
            self.seeds and self.seeds.scaled(factor),
            self.inputs and self.inputs.scaled(factor),
            tuple(gap * factor for gap in self.gaps),
        )


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
        >>> found = difference([(0, 3.0), (1, 5.0)], [(0, 1.0), (1, 2.0), (2, 3.0)])
        >>> found.mean, found.count
        (2.5, 2)
        >>> round(found.seeds.low, 2), round(found.seeds.high, 2), found.is_resolved
        (-3.85, 8.85, False)
    """
    own, theirs = mean_by_seed(values), mean_by_seed(others)
    gaps = [own[seed] - theirs[seed] for seed in own if seed in theirs]
    if not gaps:
        return None
    mean, count = statistics.fmean(gaps), len(gaps)
    seeds = None
    if count > 1:
        error = statistics.stdev(gaps) / math.sqrt(count)
        seeds = _student(mean, error, count - 1)
    return Difference(mean, count, seeds, gaps=tuple(gaps))


def change(of: Difference, less: Difference) -> Difference | None:
    """How a difference changes from one model to another, as Welch's test has it.

    Masks and initial weights of models of two sizes have nothing in common, so their
    seeds are no pairs.

    Returns:
        None if one of them has one pair. Its `count` is the smaller one, and it has no
        interval over inputs.

    Example:
        >>> large = difference([(0, 3.0), (1, 5.0)], [(0, 1.0), (1, 2.0)])
        >>> small = difference([(0, 2.0), (1, 5.0)], [(0, 1.0), (1, 2.0)])
        >>> change(large, small).mean
        0.5
    """
    if of.count < 2 or less.count < 2:
        return None
    own, theirs = (statistics.variance(d.gaps) / d.count for d in (of, less))
    mean, error = of.mean - less.mean, math.sqrt(own + theirs)
    # Welch and Satterthwaite's degrees of freedom.
    spread = own**2 / (of.count - 1) + theirs**2 / (less.count - 1)
    freedom = (own + theirs) ** 2 / spread if spread else math.inf
    count = min(of.count, less.count)
    return Difference(mean, count, _student(mean, error, freedom))


def _student(mean: float, error: float, freedom: float) -> Interval:
    """Student's interval of a mean with its standard error."""
    from scipy import stats

    if not error:
        return Interval(mean, mean, 0.0 if mean else 1.0)
    reach = error * float(stats.t.ppf(0.975, freedom))
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    return Interval(mean - reach, mean + reach, p)


def run_difference(
    group: Group, other: Group, value: Callable[[RunRecord], float | None]
) -> Difference | None:
    """Compares a number of the runs of two groups, such as a loss."""
    own, theirs = ([(_seed(run), value(run)) for run in g.runs] for g in (group, other))
    return difference(own, theirs)


def score_difference(
    group: Group, other: Group, name: str, resamples: Resamples
) -> Difference | None:
    """Compares a score of two groups of evaluations, of all inputs."""
    found = difference(_scores(group, name), _scores(other, name))
    if found is None:
        return None
    bounds = resamples.interval(_keyed(group, name), _keyed(other, name), found.mean)
    return replace(found, inputs=Interval(*bounds)) if bounds else found


def _seed(run: RunRecord) -> Hashable:
    # Masks of the dense model have no seed, so pre-trainings pair by their data's.
    return run.origin.seed


def _scores(group: Group, name: str) -> list[tuple[Hashable, float | None]]:
    pairs = zip(group.runs, group.evaluations, strict=True)
    return [(_seed(run), evaluation.scores.get(name)) for run, evaluation in pairs]


def _keyed(group: Group, name: str) -> list[tuple[Hashable, tuple[int, str, str, str]]]:
    return [
        (_seed(run), (run.number, e.task, e.split, name))
        for run, e in zip(group.runs, group.evaluations, strict=True)
        if e.scores.get(name) is not None
    ]
