"""A new mask of one kernel, with all that has to follow it, and the way back."""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras.optimization.adamw import AdamW
from spdf_keras.sparsity.masks import spread_kept
from spdf_keras.sparsity.remask import slots


class MaskChange:
    """Changes the mask of a kernel.

    Args:
        optimizer: The optimizer, whose slots follow the mask.
        weight: The kernel.
        mask: Its mask.

    Attributes:
        dropped: Number of weights that the change drops.
        grown: Number of weights that grow.
    """

    def __init__(self, optimizer: Any, weight: tf.Variable, mask: tf.Variable) -> None:
        self._mask, self._weight = mask, weight
        self._old = mask.numpy()
        self._new = self._old
        self._cohort = None
        if isinstance(optimizer, AdamW):
            self._slots = list(optimizer.slots(weight))
            self._cohort = optimizer.cohort(weight)
        else:
            self._slots = slots(optimizer, weight)
        self.dropped = self.grown = 0
        self._saved: list[tuple[tf.Variable, NDArray[Any]]] = []

    def make(self, new: NDArray[np.bool_], cohort: int, clears: bool = True) -> None:
        """Makes the change.

        Args:
            new: The mask.
            cohort: The Adam count of what grows, where the optimizer has such counts.
            clears: Whether what is dropped becomes zero, with its moments.
        """
        dropped, grown = self._old & ~new, new & ~self._old
        if not dropped.any() and not grown.any():
            return
        self._new = new
        self.dropped = int(np.count_nonzero(dropped))
        self.grown = int(np.count_nonzero(grown))
        self._mask.assign(new)
        if clears:
            self._follow(self._weight, dropped)
            for slot in self._slots:
                self._follow(slot, dropped)
        if self._cohort is not None:
            self._follow(self._cohort, dropped, grown, cohort)

    def take_back(self) -> None:
        """Restores what was before the change, as long as no step was taken."""
        dropped = self._old & ~self._new
        for variable, saved in self._saved:
            values = _dense(variable, self._new)
            values[dropped] = saved
            # What has grown started at zero, as all that is pruned.
            values[~self._old] = 0
            variable.assign(_like(values, variable, self._old))
        self._mask.assign(self._old)

    def _follow(
        self,
        variable: tf.Variable,
        dropped: NDArray[np.bool_],
        grown: NDArray[np.bool_] | None = None,
        value: int = 0,
    ) -> None:
        values = _dense(variable, self._old)
        self._saved.append((variable, values[dropped]))
        values[dropped] = 0
        if grown is not None:
            values[grown] = value
        variable.assign(_like(values, variable, self._new))


def _dense(variable: tf.Variable, mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Reads a variable in the shape of its mask; it may hold kept values alone."""
    values: NDArray[Any] = np.array(variable.numpy())
    return values if values.shape == mask.shape else spread_kept(values, mask)


def _like(
    values: NDArray[Any], variable: tf.Variable, mask: NDArray[np.bool_]
) -> NDArray[Any]:
    """Returns values as a variable holds them."""
    return values if variable.shape == values.shape else values[mask]
