"""SET and RigL: small weights are dropped, and as many grow elsewhere."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spdf_keras.sparsity.algorithms.base import MaskedKernel, SparsityMethod
from spdf_keras.sparsity.ranking import random_ranks
from spdf_keras.sparsity.schedules import cosine, update_steps


class SET(SparsityMethod):
    """Drops the smallest weights and grows as many at random.

    The defaults (an update every 100 steps, of 30 % of the weights at first, falling as
    a cosine to the end at three quarters of the steps) are those of RigL's paper for
    both methods, and of the Cerebras Model Zoo for GPT-3 125M. There is no update
    before the first step.

    Reference:
        [Mocanu et al., 2018](https://arxiv.org/abs/1707.04780), section 2. Its code
        drops the smallest positive and the largest negative weights apart, each epoch.
    """

    grows = True

    def update_steps(self) -> Sequence[int]:
        config = self.config
        return update_steps(config.begin, self.end, config.interval, first=1)

    def drop_fraction(self, step: int) -> float:
        config = self.config
        if config.drop_schedule == "constant":
            return config.drop_fraction
        return cosine(config.drop_fraction, step, config.begin, self.end)

    def grow_score(self, kernel: MaskedKernel, step: int) -> NDArray[np.generic]:
        key = f"grow:{self.config.seed}:{kernel.path}:{step}"
        return random_ranks(key, kernel.values.size).reshape(kernel.values.shape)


class RigL(SET):
    """Drops the smallest weights and grows those of the largest gradient.

    It ranks the gradient of the whole batch of the update's step, over all
    micro-batches and replicas, and then takes that step with the new masks. (The
    authors' code and JaxPruner leave the step out.)

    Reference:
        [Evci et al., 2020](https://arxiv.org/abs/1911.11134), section 3.
    """

    needs_gradient = True

    def grow_score(self, kernel: MaskedKernel, step: int) -> NDArray[np.generic]:
        assert kernel.gradient is not None
        return np.abs(kernel.gradient)
