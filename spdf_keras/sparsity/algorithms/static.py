"""Static sparsity: masks are drawn at random once and never change (the paper's)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import SparsityConfig
from spdf_keras.sparsity.masks import random_mask


@dataclass(frozen=True)
class StaticSparsity:
    """Uniform random masks with an exact number of zeros in each weight.

    Attributes:
        config: Gives the sparsity and the seed.

    Example:
        >>> static = StaticSparsity(SparsityConfig(sparsity=0.75, seed=0))
        >>> int(static.initial_mask("block_0/query", (2, 4)).sum())
        2

    Reference:
        [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464), appendix
        A.1, "Sparsity Setup".
    """

    config: SparsityConfig

    def initial_mask(self, path: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Draws the mask of one weight; see `random_mask`."""
        return random_mask(path, shape, self.config.sparsity, self.config.seed)
