"""One update of the masks, in NumPy alone: what is dropped, and what grows."""

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from spdf_keras.sparsity.algorithms.base import MaskedKernel, SparsityMethod
from spdf_keras.sparsity.distributions import Shapes, kept_counts
from spdf_keras.sparsity.ranking import top
from spdf_keras.sparsity.structures import structure_of

# A norm of zero would leave the scores of a matrix undefined.
_SMALLEST_NORM = 1e-8


def initial_counts(shapes: Shapes, method: SparsityMethod) -> dict[str, int]:
    """Returns how many weights each matrix keeps before the first step."""
    return kept_counts(shapes, method.config, method.initial_sparsity)


def counts_at(
    method: SparsityMethod,
    step: int,
    shapes: Shapes,
    before: Mapping[str, int],
    kernels: Callable[[], Iterable[MaskedKernel]],
) -> dict[str, int]:
    """Returns how many weights each matrix keeps after the update at a step.

    Args:
        method: The method.
        step: The step.
        shapes: `(in, out)` of all masked matrices by their mask path.
        before: The kept weights before.
        kernels: Returns the kernels, in the order of `shapes`; called where all of them
            are ranked together.
    """
    if method.keeps_count:
        return dict(before)
    config = method.config
    counts = kept_counts(shapes, config, method.sparsity_at(step))
    if config.scope == "global" and config.method in ("gmp", "one_shot"):
        return _ranked_together(method, sum(counts.values()), kernels)
    # A distribution at another sparsity may ask for the other direction here and there.
    limit = max if method.grows else min
    if method.is_latent:
        return counts
    return {path: limit(counts[path], before[path]) for path in counts}


def updated_mask(
    method: SparsityMethod, kernel: MaskedKernel, kept: int, step: int
) -> NDArray[np.bool_]:
    """Returns the mask of a kernel after the update at a step.

    Args:
        method: The method.
        kernel: The kernel with its mask before.
        kept: How many weights are kept afterwards.
        step: The step.
    """
    structure = structure_of(method.config)
    target, before = kept // structure.unit, structure.units(kernel.mask)
    now = int(np.count_nonzero(before))
    importance = structure.pool(method.drop_score(kernel))
    if method.is_latent:
        return structure.spread(structure.keep(importance, target))
    replaced = math.trunc(min(now, target) * method.drop_fraction(step))
    if not method.config.regrow:  # what is dropped leaves room, but does not grow
        replaced = min(replaced, before.size - max(now, target))
    stays = structure.keep(importance, min(now, target) - replaced, before)
    missing = target - int(np.count_nonzero(stays))
    if not missing:
        return structure.spread(stays)
    candidates = ~stays if method.config.regrow else ~before
    scores = method.grow_score(kernel, step)
    if structure.unit > 1:
        scores = structure.pool(scores.astype(np.float64))
    grown = structure.grow(scores, missing, candidates, before & ~stays)
    return structure.spread(stays | grown)


def _ranked_together(
    method: SparsityMethod, kept: int, kernels: Callable[[], Iterable[MaskedKernel]]
) -> dict[str, int]:
    """Divides `kept` weights by one ranking of all of them."""
    structure = structure_of(method.config)
    scores, kept_units, paths, sizes = [], [], [], []
    for kernel in kernels():
        norm = max(float(np.linalg.norm(kernel.values)), _SMALLEST_NORM)
        scores.append((structure.pool(method.drop_score(kernel)) / norm).ravel())
        kept_units.append(structure.units(kernel.mask).ravel())
        paths.append(kernel.path)
        sizes.append(scores[-1].size)
    together = top(
        np.concatenate(scores), kept // structure.unit, np.concatenate(kept_units)
    )
    ends = np.cumsum(sizes)[:-1]
    return {
        path: structure.unit * int(np.count_nonzero(part))
        for path, part in zip(paths, np.split(together, ends), strict=True)
    }
