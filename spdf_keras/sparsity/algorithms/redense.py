"""Re-densification: masks open in stages before pre-training ends."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spdf_keras.sparsity.algorithms.base import MaskedKernel, SparsityMethod
from spdf_keras.sparsity.ranking import random_ranks
from spdf_keras.sparsity.schedules import stage_steps


class Redense(SparsityMethod):
    """Starts sparse, and grows weights at random at the start of each stage.

    The learning rate is not warmed up again at a stage: weights that have grown start
    with an Adam count of their own instead.

    Reference:
        The follow-up of the paper by the same group trains 90 % sparse and then dense
        for 15 % more steps, for 64 % fewer operations; see `docs/concepts.md`.
    """

    grows = True
    keeps_count = False

    def update_steps(self) -> Sequence[int]:
        return stage_steps(self.config.shares, self.total_steps)

    def sparsity_at(self, step: int) -> float:
        steps = (0, *self.update_steps())
        stages = (self.config.sparsity, *self.config.stages)
        return [s for at, s in zip(steps, stages, strict=True) if at <= step][-1]

    def grow_score(self, kernel: MaskedKernel, step: int) -> NDArray[np.generic]:
        key = f"grow:{self.config.seed}:{kernel.path}:{step}"
        return random_ranks(key, kernel.values.size).reshape(kernel.values.shape)
