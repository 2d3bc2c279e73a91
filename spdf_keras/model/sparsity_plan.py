"""The sparsity of a model's masked matrices over the steps of a training."""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from spdf_keras.config import GPTConfig, SparsityConfig
from spdf_keras.model.paths import masked_shapes
from spdf_keras.sparsity.algorithms.registry import make_method
from spdf_keras.sparsity.distributions import kept_counts, mean_sparsity


@dataclass(frozen=True)
class SparsityPlan:
    """How many weights the masks of a training keep, step by step.

    Attributes:
        sizes: Sizes of the model.
        config: The settings of its masks.
        total_steps: Steps of the training.

    Example:
        >>> opens = SparsityConfig(
        ...     0.75, method="redense", stages=[0.5, 0.0], shares=[0.5, 0.8]
        ... )
        >>> plan = SparsityPlan(GPTConfig(1, 2, 64), opens, 100)
        >>> plan.at(50), plan.at(51), plan.at(100), round(plan.average, 3)
        (0.75, 0.5, 0.0, 0.525)
    """

    sizes: GPTConfig
    config: SparsityConfig
    total_steps: int

    def at(self, step: int) -> float:
        """Returns the mean sparsity of the masked matrices in a step, from 1 on."""
        starts, sparsities = self._stages
        return sparsities[bisect.bisect_left(starts, step) - 1]

    @property
    def final(self) -> float:
        """The mean sparsity of the last step."""
        return self.at(max(self.total_steps, 1))

    @property
    def average(self) -> float:
        """The mean over all steps."""
        return self.mean(self.total_steps)

    def mean(self, count: int) -> float:
        """Returns the mean over the first `count` steps; that of the first if 0."""
        spans = self._spans(max(count, 1))
        if len(spans) == 1:
            return spans[0][1]  # a sum would round
        return sum(steps * sparsity for steps, sparsity in spans) / count

    def steps(self, count: int) -> Iterator[float]:
        """Yields the mean sparsity of each of the first `count` steps."""
        for steps, sparsity in self._spans(count):
            yield from itertools.repeat(sparsity, steps)

    def kept(self, step: int) -> dict[str, int]:
        """Returns the kept weights of each masked matrix in a step, by mask path.

        Matrices that are ranked together (`scope`) are not told apart here.
        """
        if not self.config.sparsity:
            return {}
        method = make_method(self.config, self.total_steps)
        made = [at for at in method.update_steps() if at < step]
        sparsity = method.sparsity_at(made[-1]) if made else method.initial_sparsity
        return kept_counts(masked_shapes(self.sizes), self.config, sparsity)

    def _spans(self, count: int) -> list[tuple[int, float]]:
        """Returns numbers of steps with one sparsity, as far as `count` steps."""
        starts, sparsities = self._stages
        ends = [min(end, count) for end in (*starts[1:], count)]
        spans = zip(starts, ends, sparsities, strict=True)
        return [(end - start, value) for start, end, value in spans if end > start]

    @cached_property
    def _stages(self) -> tuple[list[int], list[float]]:
        """Completed steps after which the sparsity changes, and the sparsities."""
        if not self.config.sparsity:
            return [0], [0.0]
        method = make_method(self.config, self.total_steps)
        starts, sparsities = [0], [self._mean(method.initial_sparsity)]
        for step in () if method.keeps_count else method.update_steps():
            if step == 0:
                starts, sparsities = [], []
            starts.append(step)
            sparsities.append(self._mean(method.sparsity_at(step)))
        return starts, sparsities

    def _mean(self, sparsity: float) -> float:
        if self.config.distribution == "uniform" and not self.config.densities:
            return sparsity
        shapes = masked_shapes(self.sizes)
        return mean_sparsity(shapes, kept_counts(shapes, self.config, sparsity))
