"""When masks change, how many weights they keep, and in which units, in NumPy.

A step `t` is a number of completed optimizer steps: an update at `t` comes before step
`t + 1`. Nothing here calls the package; `Settings` has its names and defaults.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Methods that may update masks before the first step.
_FROM_ZERO = ("gmp", "magnitude_ste")


@dataclass(frozen=True)
class Settings:
    """The settings of the `[sparsity]` table that the simulation knows."""

    sparsity: float
    method: str
    seed: int = 0
    distribution: str = "uniform"
    structure: str = "unstructured"
    axis: str = "in"
    begin: int = 0
    end: int = 0
    interval: int = 100
    drop_fraction: float = 0.3
    drop_schedule: str = "cosine"
    initial_sparsity: float = 0.0
    stages: Sequence[float] = ()
    shares: Sequence[float] = ()
    scope: str = "matrix"
    regrow: bool = True
    own_counts: bool = True

    def update_steps(self, total_steps: int) -> list[int]:
        """Returns the steps at which masks change."""
        if self.method == "redense":
            shares = [Fraction(str(share)) for share in self.shares]
            return [math.ceil(share * total_steps) for share in shares]
        if self.method == "one_shot":
            return [self.begin]
        end = self.last_step(total_steps)
        steps = [*range(self.begin, end, self.interval), end]
        return [step for step in steps if step > 0 or self.method in _FROM_ZERO]

    def last_step(self, total_steps: int) -> int:
        """Returns the step of the last update."""
        if self.method == "magnitude_ste":
            return self.end or total_steps
        return self.end or total_steps * 3 // 4

    def drop_fraction_at(self, step: int, total_steps: int) -> float:
        """Returns the fraction of the kept weights that are replaced."""
        if self.drop_schedule == "constant":
            return self.drop_fraction
        length = self.last_step(total_steps) - self.begin
        done = (step - self.begin) / length
        return self.drop_fraction / 2 * (1 + math.cos(math.pi * done))

    def sparsity_at(self, step: int, total_steps: int) -> float:
        """Returns the sparsity that holds after an update at `step`."""
        if self.method == "redense":
            return self.stages[self.update_steps(total_steps).index(step)]
        if self.method == "gmp":
            length = self.last_step(total_steps) - self.begin
            done = min(max((step - self.begin) / length, 0.0), 1.0)
            left = self.initial_sparsity - self.sparsity
            return self.sparsity + left * (1 - done) ** 3
        return self.sparsity

    @property
    def sparsity_at_first(self) -> float:
        """The sparsity before the first update."""
        if self.method == "one_shot":
            return 0.0
        return self.initial_sparsity if self.method == "gmp" else self.sparsity


def random_ranks(key: str, size: int) -> NDArray[np.uint64]:
    """Returns different random numbers, whose lowest bits are the flat index."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = np.random.Philox(key=np.frombuffer(digest[:16], "<u8"))
    draws = np.asarray(generator.random_raw(size), np.uint64)
    bits = np.uint64((size - 1).bit_length())
    ranks: NDArray[np.uint64] = draws >> bits << bits
    return ranks | np.arange(size, dtype=np.uint64)


@dataclass(frozen=True)
class Units:
    """What a structure keeps or prunes as one: a weight, or a tile of weights.

    Attributes:
        shape: Shape of the matrix, `(in, out)`.
        tile: Rows and columns of a tile; `(1, 1)` is a single weight.
        neighbours: Weights in a group that has a fixed number of kept ones; 0 is none.
        of_group: That number.
        axis: 0 if neighbours are consecutive inputs, 1 if they are outputs.
    """

    shape: tuple[int, int]
    tile: tuple[int, int] = (1, 1)
    neighbours: int = 0
    of_group: int = 0
    axis: int = 0

    @classmethod
    def of(cls, shape: tuple[int, int], structure: str, axis: str) -> "Units":
        """Reads a structure, such as `2:4` or `4x4`."""
        if ":" in structure:
            kept, neighbours = map(int, structure.split(":"))
            return cls(shape, (1, 1), neighbours, kept, ("in", "out").index(axis))
        if "x" in structure:
            rows, columns = map(int, structure.split("x"))
            return cls(shape, (rows, columns))
        return cls(shape)

    @property
    def count(self) -> int:
        """How many units the matrix has."""
        return math.prod(self.shape) // math.prod(self.tile)

    def pool(self, values: Array) -> Array:
        """Returns the mean absolute value of each unit, in row order."""
        (rows, columns), (height, width) = self.shape, self.tile
        tiles = np.abs(values).reshape(rows // height, height, columns // width, width)
        return tiles.mean((1, 3)).ravel()

    def random(self, key: str) -> NDArray:
        """Returns a random score of each unit: that of a tile is pooled, as others."""
        ranks = random_ranks(key, math.prod(self.shape))
        return ranks if self.tile == (1, 1) else self.pool(ranks.astype(np.float64))

    def mask(self, kept: Mask) -> Mask:
        """Returns the mask of the matrix in which the units of `kept` are kept."""
        height, width = self.tile
        units = kept.reshape(self.shape[0] // height, self.shape[1] // width)
        return units.repeat(height, 0).repeat(width, 1)

    def groups(self) -> list[NDArray[np.int64]]:
        """Returns the units of each group; one group has all where there are none."""
        places = np.arange(self.count)
        if not self.neighbours:
            return [places]
        grid = places.reshape(self.shape)
        lines = grid.T if self.axis == 0 else grid
        return list(lines.reshape(-1, self.neighbours))


def kept_units(
    shapes: dict[str, tuple[int, int]], settings: Settings, sparsity: float
) -> dict[str, int]:
    """Returns how many units each matrix keeps, by its path."""
    units = {
        path: Units.of(shape, settings.structure, settings.axis)
        for path, shape in shapes.items()
    }
    if settings.distribution == "erk" and sparsity:
        return _erk(shapes, sparsity)
    return {
        path: unit.count - round(sparsity * unit.count) for path, unit in units.items()
    }


def _erk(shapes: dict[str, tuple[int, int]], sparsity: float) -> dict[str, int]:
    """Kept weights in proportion to the sum of the sizes, with an exact total."""
    total = sum(map(math.prod, shapes.values()))
    budget = total - round(sparsity * total)
    dense: set[str] = set()
    while True:
        left = budget - sum(math.prod(shapes[path]) for path in dense)
        sums = {path: sum(s) for path, s in shapes.items() if path not in dense}
        shares = {
            path: Fraction(left * size, sum(sums.values()))
            for path, size in sums.items()
        }
        over = {path for path in shares if shares[path] > math.prod(shapes[path])}
        if not over:
            break
        dense |= over
    kept = {path: math.prod(shapes[path]) for path in shapes}
    kept |= {path: math.floor(share) for path, share in shares.items()}
    fractions = sorted(shares, key=lambda path: math.floor(shares[path]) - shares[path])
    for path in fractions[: budget - sum(kept.values())]:
        kept[path] += 1
    return kept
