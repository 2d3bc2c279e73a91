"""A training of a GPT whose masks change, simulated in NumPy from the rule alone."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from numpy_gpt import Array, NumpyAdamW, Weights, loss_and_gradients
from numpy_masks import Mask, Settings, Units, kept_units, random_ranks


def _ascending(places: NDArray, score: NDArray) -> NDArray:
    """Returns places from the smallest score on; of equal ones the later first."""
    later_first = places[::-1]
    return later_first[np.argsort(score[later_first], kind="stable")]


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
            if not self._is_latent:
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
            self.update(loss_and_gradients(self.weights, *batch)[1])
        masks = self.masks()
        products = {path: self.weights[path] * mask for path, mask in masks.items()}
        loss, gradients = loss_and_gradients(self.weights | products, *batch)
        # The gradient of latent weights passes straight through the masks.
        for path, mask in () if self._is_latent else masks.items():
            gradients[path] = gradients[path] * mask
        self.optimizer.step(self.weights, gradients)
        return loss

    @property
    def _is_latent(self) -> bool:
        return self.settings.method == "magnitude_ste"

    def update(self, gradients: Weights) -> None:
        """Updates the masks before the next step, whose gradients are given."""
        settings, step = self.settings, self.optimizer.steps
        sparsity = settings.sparsity_at(step, self.total_steps)
        counts = kept_units(self._shapes, settings, sparsity)
        if settings.scope == "global":
            counts = self._counts_together(sum(counts.values()))
        for path, units in self._units.items():
            before = self.kept[path]
            size = units.pool(self.weights[f"{path}/kernel"])
            if settings.method == "rigl":
                score = units.pool(gradients[f"{path}/kernel"])
            else:
                score = units.random(f"grow:{settings.seed}:{path}:{step}")
            after = before.copy()
            if self._is_latent:
                self.kept[path] = np.zeros_like(before)
                places = np.arange(units.count)
                self._grow(self.kept[path], places, size, counts[path])
                continue
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

    def _counts_together(self, count: int) -> dict[str, int]:
        """Returns the kept units of each matrix after a ranking of all of them.

        Sizes are relative to the norm of their matrix.
        """
        sizes, owners = [], []
        for path, kept in self.kept.items():
            weights = self.weights[f"{path}/kernel"]
            norm = float((weights**2).sum()) ** 0.5
            sizes.append(self._units[path].pool(weights)[kept] / norm)
            owners += [path] * int(kept.sum())
        together = np.concatenate(sizes)
        order = _ascending(np.arange(together.size), together)[::-1]
        self._note(together[order], count)
        chosen = [owners[place] for place in order[:count]]
        return {path: chosen.count(path) for path in self.kept}

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
            self.margin = min(self.margin, abs(a - b) / max(abs(a), abs(b), 1e-30))

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
