"""Counts the weights that masks keep, and those that leak through them.

The counting is NumPy alone, so that a report reads a checkpoint without TensorFlow.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MaskAudit:
    """One masked kernel.

    Attributes:
        path: Path of the kernel.
        size: Number of its weights.
        kept: Number of weights that the mask keeps.
        violations: Number of pruned positions where the weight or one of its moments
            is not exactly zero.
    """

    path: str
    size: int
    kept: int
    violations: int

    @property
    def density(self) -> float:
        """Kept weights over all weights."""
        return self.kept / self.size


def audit_mask(
    path: str, mask: NDArray[np.bool_], values: Iterable[NDArray[Any]]
) -> MaskAudit:
    """Counts the weights that a mask keeps, and the positions that leak.

    Args:
        path: Path of the kernel.
        mask: True where a weight is kept.
        values: The kernel, and moments of its shape if there are any. One of them is
            in memory at a time if they come from a generator.

    Example:
        >>> mask = np.array([[True, False], [False, True]])
        >>> weights = np.array([[0.5, 0.1], [0.0, 0.0]])
        >>> audit_mask("a/kernel", mask, [weights])
        MaskAudit(path='a/kernel', size=4, kept=2, violations=1)
    """
    leaks = np.zeros(mask.shape, np.bool_)
    for array in values:
        leaks |= (array != 0) & ~mask
    return MaskAudit(path, mask.size, int(mask.sum()), int(leaks.sum()))


def audit_masks(model: Any) -> list[MaskAudit]:
    """Reports every masked kernel of a GPT; an empty list for a dense model.

    Moments are included where the optimizer stores them at pruned positions.
    """
    weights, reports = model.named_weights(), []
    latent = getattr(model, "has_latent_weights", False)
    optimizer = model.optimizer
    has_slots = getattr(optimizer, "has_slots", False)
    for path, mask in model.named_masks().items():
        variables = [] if latent else [weights[path]]
        if has_slots and not latent and optimizer.kept_mask(weights[path]) is None:
            variables += optimizer.slots(weights[path])
        values = (variable.numpy() for variable in variables)
        reports.append(audit_mask(path, mask.numpy(), values))
    return reports
