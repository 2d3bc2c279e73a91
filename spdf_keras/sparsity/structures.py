"""Which weights are kept or pruned together: single weights, tiles, or N of M.

A method ranks *units*: a unit is a weight, or a tile of weights. N:M ranks weights, and
keeps as many in every group.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import SparsityConfig
from spdf_keras.errors import InputError
from spdf_keras.sparsity.ranking import Entries, random_ranks, ranks_in_rows, top

Scores = NDArray[Any]


@dataclass(frozen=True)
class Structure:
    """Single weights, and the base of the other structures.

    Attributes:
        rows: Inputs of a unit.
        columns: Outputs of a unit.
    """

    rows: int = 1
    columns: int = 1

    @property
    def unit(self) -> int:
        """Weights of a unit."""
        return self.rows * self.columns

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raises `InputError` if a matrix cannot have the structure."""
        if shape[0] % self.rows or shape[1] % self.columns:
            raise InputError(
                f"`structure` {self.rows}x{self.columns} must divide every matrix. "
                f"Received: '{path}' of {shape[0]} inputs and {shape[1]} outputs."
            )

    def pool(self, values: Scores) -> Scores:
        """Returns the mean size of the values of each unit."""
        sizes = np.abs(values)
        if self.unit == 1:
            return sizes
        return self._tiles(sizes).mean((1, 3), dtype=np.float64)

    def units(self, mask: Entries) -> Entries:
        """Returns which units a mask keeps; all weights of a unit are alike."""
        return mask if self.unit == 1 else self._tiles(mask)[:, 0, :, 0]

    def spread(self, units: Entries) -> Entries:
        """Returns the mask that keeps some units."""
        if self.unit == 1:
            return units
        return units.repeat(self.rows, axis=0).repeat(self.columns, axis=1)

    def _tiles(self, values: NDArray[Any]) -> NDArray[Any]:
        rows, columns = values.shape
        inner = (rows // self.rows, self.rows, columns // self.columns, self.columns)
        return values.reshape(inner)

    def random(self, key: str, shape: tuple[int, ...], kept: int) -> Entries:
        """Draws a mask that keeps `kept` weights; see `random_ranks` for `key`."""
        grid = (shape[0] // self.rows, shape[1] // self.columns)
        ranks = random_ranks(key, math.prod(grid)).reshape(grid)
        return self.spread(self.keep(~ranks, kept // self.unit))

    def keep(self, scores: Scores, count: int, among: Entries | None = None) -> Entries:
        """Chooses the units of the largest scores.

        Args:
            scores: A score for each unit.
            count: Number of units.
            among: Which units can be chosen; all if None.
        """
        return top(scores, count, among)

    def grow(
        self, scores: Scores, count: int, among: Entries, missing: Entries
    ) -> Entries:
        """Chooses the units that grow.

        Args:
            scores: A score for each unit.
            count: Number of units.
            among: Which can grow.
            missing: The units that were just dropped.
        """
        return top(scores, count, among)


@dataclass(frozen=True)
class NOfM(Structure):
    """N of M neighbouring weights are kept.

    While a schedule has not yet reached N of M, the weights that every group will keep
    in the end come first.

    Attributes:
        n: Weights of a group that are kept.
        m: Weights of a group.
        axis: Whether the neighbours are inputs (`in`) or outputs (`out`).
    """

    n: int = 2
    m: int = 4
    axis: str = "in"

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raises `InputError` if a matrix cannot have the structure."""
        size = shape[0 if self.axis == "in" else 1]
        if size % self.m:
            raise InputError(
                f"`structure` {self.n}:{self.m} must divide the axis `{self.axis}` of "
                f"every matrix. Received: '{path}' with {size} "
                f"{'inputs' if self.axis == 'in' else 'outputs'}."
            )

    def keep(self, scores: Scores, count: int, among: Entries | None = None) -> Entries:
        """Chooses the units of the largest scores, the best N of each group first."""
        groups = self._groups(scores if among is None else _below(scores, among))
        first = self._back(ranks_in_rows(groups) < self.n, scores.shape)
        if among is not None:
            first &= among
        more = count - int(np.count_nonzero(first))
        if more <= 0:
            return top(scores, count, first)
        rest = ~first if among is None else among & ~first
        return first | top(scores, more, rest)

    def grow(
        self, scores: Scores, count: int, among: Entries, missing: Entries
    ) -> Entries:
        """Chooses as many units in each group as it has lost."""
        lost = self._groups(missing).sum(1, keepdims=True)
        groups = self._groups(_below(scores, among))
        return self._back(ranks_in_rows(groups) < lost, scores.shape) & among

    def _groups(self, values: NDArray[Any]) -> NDArray[Any]:
        along = values.T if self.axis == "in" else values
        return np.ascontiguousarray(along).reshape(-1, self.m)

    def _back(self, groups: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        if self.axis == "out":
            return groups.reshape(shape)
        return np.ascontiguousarray(groups.reshape(shape[::-1]).T)


def _below(scores: Scores, among: Entries) -> Scores:
    """Returns scores as floats, with those that cannot be chosen below all others."""
    return np.where(among, scores.astype(np.float64), -np.inf)


def structure_of(config: SparsityConfig) -> Structure:
    """Returns the structure that settings name.

    Raises:
        InputError: If it is none, or its density is not that of the settings.

    Example:
        >>> structure_of(SparsityConfig(sparsity=0.75, structure="1:4", axis="out"))
        NOfM(rows=1, columns=1, n=1, m=4, axis='out')
    """
    text = config.structure
    if text == "unstructured":
        return Structure()
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if re.fullmatch(r"[1-9]\d{0,5}x[1-9]\d{0,5}", text):
        return Structure(*numbers)
    if not re.fullmatch(r"[1-9]\d{0,5}:[1-9]\d{0,5}", text) or numbers[0] > numbers[1]:
        raise InputError(
            "`structure` must be unstructured, N:M such as 2:4, or RxC such as 4x4. "
            f"Received: structure='{text}'."
        )
    n, m = numbers
    if abs(config.sparsity - (1 - n / m)) > 1e-9 or config.distribution != "uniform":
        raise InputError(
            f"`sparsity` must be {1 - n / m:g}, and `distribution` uniform, with "
            f"structure='{text}', which keeps {n} of {m}. Received: "
            f"sparsity={config.sparsity}, distribution={config.distribution}."
        )
    if config.densities or config.method == "redense" or config.scope == "global":
        raise InputError(
            f"`structure` must not be N:M with `densities`, `redense` or "
            f"scope='global', which give groups other densities. Received: '{text}'."
        )
    if not config.regrow and 2 * n > m:
        raise InputError(
            f"`regrow` must be true with structure='{text}', whose groups have too few "
            "pruned weights to grow others. Received: false."
        )
    return NOfM(n=n, m=m, axis=config.axis)
