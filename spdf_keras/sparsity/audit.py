"""What the masks of a model are, and whether anything leaks through them."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MaskReport:
    """One masked kernel.

    Attributes:
        path: Path of the kernel.
        size: Its weights.
        kept: How many the mask keeps.
        violations: Pruned positions where the weight or one of its moments is
            not exactly zero.
    """

    path: str
    size: int
    kept: int
    violations: int

    @property
    def density(self) -> float:
        """Kept weights over all weights."""
        return self.kept / self.size


def mask_reports(model: Any) -> list[MaskReport]:
    """Reports every masked kernel of a GPT; an empty list for a dense model.

    Moments are looked at where the model's optimizer has them at pruned positions.
    """
    weights, reports = model.named_weights(), []
    has_slots = getattr(model.optimizer, "has_slots", False)
    for path, mask_variable in model.named_masks().items():
        mask = mask_variable.numpy()
        variables = [weights[path]]
        if has_slots and model.optimizer.kept_mask(weights[path]) is None:
            variables += model.optimizer.slots(weights[path])
        leaks = np.zeros(mask.shape, np.bool_)
        for variable in variables:
            leaks |= (variable.numpy() != 0) & ~mask
        reports.append(MaskReport(path, mask.size, int(mask.sum()), int(leaks.sum())))
    return reports
