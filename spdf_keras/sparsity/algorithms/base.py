"""What a sparsity method is: when masks change, how far, and which weights first."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import SparsityConfig


class MaskedKernel(NamedTuple):
    """A kernel at an update of its mask.

    Attributes:
        path: Its mask path, such as `block_0/query`.
        values: `(in, out)`, float32.
        mask: Its mask before the update.
        gradient: The gradient of the loss of the whole batch for `values * mask`, at
            pruned weights too; None unless the method `needs_gradient`.
    """

    path: str
    values: NDArray[np.float32]
    mask: NDArray[np.bool_]
    gradient: NDArray[np.float32] | None = None


class SparsityMethod:
    """A method that never changes a mask, and the base class of the others.

    A step `t` is a number of completed optimizer steps, and an update at `t` comes
    before step `t + 1`. It drops the kept weights of the lowest `drop_score`, and grows
    weights of the highest `grow_score`, so many that each matrix keeps what the
    distribution gives it at `sparsity_at(t)`. What is dropped becomes zero, with its
    moments; what grows starts at zero, with moments of zero. Equal scores are ranked by
    their place: the first weight in the order of rows is kept, or grown, first.

    Args:
        config: The settings.
        total_steps: Steps of the whole training; 0 if they are not known, as before a
            model is compiled.

    Attributes:
        needs_gradient: Whether an update ranks by gradients, for which the batch of its
            step is computed once more.
        grows: Whether weights grow.
        keeps_count: Whether a matrix always keeps as many weights.
        is_latent: Whether pruned weights keep values, which only the forward pass
            leaves out.
    """

    needs_gradient: ClassVar[bool] = False
    grows: ClassVar[bool] = False
    keeps_count: ClassVar[bool] = True
    is_latent: ClassVar[bool] = False

    def __init__(self, config: SparsityConfig, total_steps: int = 0) -> None:
        self.config, self.total_steps = config, total_steps

    @property
    def end(self) -> int:
        """The last step of the schedule."""
        return self.config.end or self.total_steps * 3 // 4

    @property
    def initial_sparsity(self) -> float:
        """The sparsity before the first step."""
        return self.config.sparsity

    def update_steps(self) -> Sequence[int]:
        """Returns the steps of the updates, rising."""
        return ()

    def sparsity_at(self, step: int) -> float:
        """Returns the sparsity from an update at `step` on."""
        return self.config.sparsity

    def drop_fraction(self, step: int) -> float:
        """Returns the fraction of kept weights that an update replaces."""
        return 0.0

    def drop_score(self, kernel: MaskedKernel) -> NDArray[np.generic]:
        """Returns a score for each weight; kept ones of the lowest are dropped."""
        return np.abs(kernel.values)

    def grow_score(self, kernel: MaskedKernel, step: int) -> NDArray[np.generic]:
        """Returns a score for each weight; the highest of those not kept grow."""
        raise NotImplementedError
