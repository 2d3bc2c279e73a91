"""What a sparsity algorithm is."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SparsityAlgorithm(Protocol):
    """Gives each masked weight its mask.

    An algorithm is made from a `SparsityConfig`, once per model.
    """

    def initial_mask(self, path: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Returns the mask of one weight before the first step.

        Args:
            path: `mask_path` of the weight; it depends on nothing but the weight's
                place in the model.
            shape: Shape of the weight.

        Returns:
            A `bool` array of `shape`: True is kept, False is pruned.
        """
