"""Masks that change in training, simulated in NumPy from their rule alone.

A step `t` is a number of completed optimizer steps: an update at `t` comes before step
`t + 1`. Nothing here calls the package; `Settings` has its names and defaults.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from numpy_gpt import Array, NumpyAdamW, Weights, loss_and_gradients

Mask = NDArray[np.bool_]


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
        return [step for step in steps if step > 0 or self.method == "gmp"]

    def last_step(self, total_steps: int) -> int:
        """Returns the step of the last update."""
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


def _ascending(places: NDArray, score: NDArray) -> NDArray:
    """Returns places from the smallest score on; of equal ones the later first."""
    later_first = places[::-1]
    return later_first[np.argsort(score[later_first], kind="stable")]


def random_ranks(key: str, size: int) -> NDArray[np.uint64]:
    """Returns different random numbers, whose lowest bits are the flat index."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = np.random.Philox(key=np.frombuffer(digest[:16], "<u8"))
    draws = np.asarray(generator.random_raw(size), np.uint64)
    bits = np.uint64((size - 1).bit_length())
    return (draws >> bits << bits) + np.arange(size, dtype=np.uint64)


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


@dataclass
class Simulation:
    """A training of a toy GPT whose masks change.

    Attributes:
        settings: What the masks do.
        weights: Initial weights by path; they are changed.
        num_heads: Attention heads.
        total_steps: Steps of the training.
        optimizer: Moves the weights.
        kept: The kept units of each kernel, by the path of its mask.
        margin: The smallest difference of two sizes or gradients between which a choice
            was made, relative to the larger one.
    """

    settings: Settings
    weights: Weights
    num_heads: int
    total_steps: int
    optimizer: NumpyAdamW
    kept: dict[str, Mask] = field(default_factory=dict)
    margin: float = math.inf

    def __post_init__(self) -> None:
        names = [path for path in self.weights if path.startswith("block_")]
        kernels = [path for path in names if path.endswith("/kernel")]
        self._shapes = {
            path.removesuffix("/kernel"): self.weights[path].shape for path in kernels
        }
        settings = self.settings
        self._units = {
            path: Units.of(shape, settings.structure, settings.axis)
            for path, shape in self._shapes.items()
        }
        self._updates = settings.update_steps(self.total_steps)
        counts = kept_units(self._shapes, settings, settings.sparsity_at_first)
        for path, units in self._units.items():
            ranks = random_ranks(f"{settings.seed}:{path}", units.count)
            kept = np.zeros(units.count, np.bool_)
            for group in units.groups():
                count = units.of_group or counts[path]
                kept[group[np.argsort(ranks[group])[:count]]] = True
            self.kept[path] = kept
            self.optimizer.starts[f"{path}/kernel"] = np.zeros(units.shape, np.int64)
            self.weights[f"{path}/kernel"] *= units.mask(kept)

    def masks(self) -> dict[str, Mask]:
        """Returns the mask of every kernel by the path of the kernel."""
        return {
            f"{path}/kernel": self._units[path].mask(kept)
            for path, kept in self.kept.items()
        }

    def step(self, token_ids: NDArray, labels: NDArray) -> float:
        """Updates the masks if their time has come, then takes an optimizer step."""
        batch = (token_ids, labels, self.num_heads)
        if self.optimizer.steps in self._updates:
            self._update(batch)
        loss, gradients = loss_and_gradients(self.weights, *batch)
        for path, mask in self.masks().items():
            gradients[path] = gradients[path] * mask
        self.optimizer.step(self.weights, gradients)
        return loss

    def _update(self, batch: tuple[NDArray, NDArray, int]) -> None:
        settings, step = self.settings, self.optimizer.steps
        gradients = loss_and_gradients(self.weights, *batch)[1]
        sparsity = settings.sparsity_at(step, self.total_steps)
        counts = kept_units(self._shapes, settings, sparsity)
        for path, units in self._units.items():
            before = self.kept[path]
            size = units.pool(self.weights[f"{path}/kernel"])
            if settings.method == "rigl":
                score = units.pool(gradients[f"{path}/kernel"])
            else:
                score = units.random(f"grow:{settings.seed}:{path}:{step}")
            after = before.copy()
            if settings.method in ("gmp", "one_shot"):
                self._drop(after, size, int(before.sum()) - counts[path])
            elif settings.method == "redense":
                wanted = counts[path] - int(before.sum())
                self._grow(after, np.flatnonzero(~before), score, wanted)
            else:
                fraction = settings.drop_fraction_at(step, self.total_steps)
                self._drop(after, size, math.trunc(int(before.sum()) * fraction))
                free = ~after if settings.regrow else ~before
                lost = before & ~after
                for group in units.groups():
                    places, wanted = group[free[group]], int(lost[group].sum())
                    self._grow(after, places, score, wanted)
            self._move(path, before, after)

    def _drop(self, kept: Mask, size: Array, count: int) -> None:
        """Drops the smallest of the kept; of equal ones the later."""
        order = _ascending(np.flatnonzero(kept), size)
        kept[order[:count]] = False
        self._note(size[order], count)

    def _grow(self, kept: Mask, places: NDArray, score: NDArray, count: int) -> None:
        """Grows the places with the highest score; of equal ones the first."""
        order = _ascending(places, score)[::-1]
        kept[order[:count]] = True
        self._note(score[order], count)

    def _note(self, scores: NDArray, count: int) -> None:
        """Notes how far the last that was chosen is from the first that was not."""
        if 0 < count < len(scores) and scores.dtype.kind == "f":
            a, b = float(scores[count - 1]), float(scores[count])
            self.margin = min(self.margin, abs(a - b) / max(abs(a), abs(b)))

    def _move(self, path: str, before: Mask, after: Mask) -> None:
        """Forgets what was dropped; starts what has grown at zero."""
        units, kernel = self._units[path], f"{path}/kernel"
        changed = units.mask(before) != units.mask(after)
        self.weights[kernel][changed] = 0.0
        for moment in self.optimizer.of(kernel, self.weights[kernel]):
            moment[changed] = 0.0
        if self.settings.own_counts:
            self.optimizer.starts[kernel][changed] = self.optimizer.steps
        self.kept[path] = after
