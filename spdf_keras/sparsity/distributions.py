"""How many weights each matrix keeps, at one sparsity of all of them."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from spdf_keras.config import SparsityConfig
from spdf_keras.errors import InputError
from spdf_keras.sparsity.masks import num_zeros
from spdf_keras.sparsity.structures import NOfM, structure_of

Shapes = Mapping[str, tuple[int, ...]]


def kept_counts(
    shapes: Shapes, config: SparsityConfig, sparsity: float | None = None
) -> dict[str, int]:
    """Returns the number of weights that each matrix keeps.

    `uniform` prunes `round(sparsity * size)` weights of each matrix. `erk` keeps as
    many in all, to the weight, and gives a matrix of n inputs and m outputs a density
    in proportion to `(n + m) / (n * m)`; a matrix that would be more than dense is
    dense, and the others share what is left.

    Args:
        shapes: `(in, out)` of all masked matrices by their mask path.
        config: Distribution, table of densities and structure.
        sparsity: The sparsity at some step; that of `config` if None. The densities of
            the table then move with it.

    Raises:
        InputError: If a pattern of the table fits no matrix, or a matrix cannot have
            the structure.

    Example:
        >>> erk = SparsityConfig(sparsity=0.75, distribution="erk")
        >>> kept_counts({"a": (768, 768), "b": (768, 3072)}, erk)
        {'a': 210651, 'b': 526629}

    Reference:
        [Evci et al., 2020](https://arxiv.org/abs/1911.11134), section 3; for matrices
        ER and ERK are the same.
    """
    structure = structure_of(config)
    for path, shape in shapes.items():
        structure.check(path, shape)
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    if sparsity is None:
        sparsity = config.sparsity
    reached = sparsity / config.sparsity if config.sparsity else 1.0
    unit = structure.unit
    kept = {}
    for path, density in _table(tuple(shapes), config.densities).items():
        zeros = num_zeros(sizes[path] // unit, min((1.0 - density) * reached, 1.0))
        kept[path] = sizes[path] - unit * zeros
    others = [path for path in shapes if path not in kept]
    if config.distribution == "uniform":
        for path in others:
            kept[path] = sizes[path] - unit * num_zeros(sizes[path] // unit, sparsity)
    elif others:
        shares = {path: Fraction(sum(shapes[path]), sizes[path]) for path in others}
        units = {path: sizes[path] // unit for path in others}
        total = sum(units.values())
        budget = total - num_zeros(total, sparsity)
        for path, count in _proportional(shares, units, budget).items():
            kept[path] = unit * count
    if isinstance(structure, NOfM):
        for path, count in kept.items():
            kept[path] = max(count, sizes[path] // structure.m * structure.n)
    return {path: kept[path] for path in shapes}


def mean_sparsity(shapes: Shapes, kept: Mapping[str, int]) -> float:
    """Returns the zeros of all matrices over their weights."""
    size = sum(math.prod(shape) for shape in shapes.values())
    return 1.0 - sum(kept.values()) / size


def _table(paths: Sequence[str], densities: Sequence[str]) -> dict[str, float]:
    """Returns the density of each path that a pattern of the table fits."""
    found: dict[str, float] = {}
    for line in densities:
        pattern, equals, text = line.rpartition("=")
        try:
            density = float(text)
        except ValueError:
            density = math.nan
        if not equals or not 0.0 < density <= 1.0:
            raise InputError(
                "`densities` must be lines such as '*/output=0.1', of a pattern and a "
                f"density in (0, 1]. Received: '{line}'."
            )
        fits = [path for path in paths if fnmatch.fnmatchcase(path, pattern.strip())]
        if not fits:
            raise InputError(
                f"`densities` must fit a matrix. Received: '{line}', which fits none "
                f"of {paths[0]} to {paths[-1]}."
            )
        for path in fits:
            found.setdefault(path, density)
    return found


def _proportional(
    shares: Mapping[str, Fraction], sizes: Mapping[str, int], budget: int
) -> dict[str, int]:
    """Divides a budget by densities in proportion to shares.

    Floats would decide by their rounding which of equal remainders is filled, and
    whether a matrix at the edge is more than dense.
    """
    dense: set[str] = set()
    while True:
        left = budget - sum(sizes[path] for path in dense)
        rest = [path for path in sizes if path not in dense]
        total = sum(shares[path] * sizes[path] for path in rest)
        scale = left / total if rest else Fraction(0)
        over = {path for path in rest if shares[path] * scale > 1}
        if not over:
            break
        dense |= over  # which only leaves the others more
    exact = {path: shares[path] * scale * sizes[path] for path in rest}
    counts = {path: math.floor(exact[path]) for path in rest}
    remainders = sorted(rest, key=lambda path: counts[path] - exact[path])
    for path in remainders[: left - sum(counts.values())]:
        counts[path] += 1
    return {path: sizes[path] if path in dense else counts[path] for path in sizes}
