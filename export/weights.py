"""Weights that an export reads one at a time.

A model in memory has them all; those of a run's checkpoint and of a preset are read
or drawn when they are needed, so that an export needs no memory for the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import GPTConfig, SparsityConfig, get_preset
from spdf_keras.errors import InputError
from spdf_keras.export.sources import resolve_source
from spdf_keras.model.binding import initial_value, skeleton
from spdf_keras.model.gpt import GPT
from spdf_keras.model.paths import KERNELS, block_name, kernel_path
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.optimization.recipes import pretraining_optimizer
from spdf_keras.sparsity.masks import mask_path, random_mask, unpack_mask
from spdf_keras.training.run import Run

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class WeightSource:
    """The weights of a GPT, with its sizes and its optimizer.

    Attributes:
        sizes: Sizes of the GPT.
        sparsity: Sparsity of the masks; 0 without masks.
        mask_settings: The settings that the masks were drawn by.
        precision: Precision that the GPT computes in, such as `mixed_bfloat16`.
        shapes: Shape of each weight by its path, as in `GPT.named_weights`.
        optimizer: The optimizer of pre-training; None if it is not `AdamW`.
    """

    sizes: GPTConfig
    sparsity: float
    mask_settings: SparsityConfig
    precision: str
    shapes: dict[str, tuple[int, ...]]
    optimizer: AdamW | None
    _read: Callable[[str], NDArray[np.float32]]
    _mask: Callable[[str], Mask | None]

    def mask(self, path: str) -> Mask | None:
        """Returns the mask of a weight, 1 is kept; None where it has none."""
        return self._mask(path)

    def exact(self, path: str) -> NDArray[np.float32]:
        """Reads a weight, zero where its mask is 0; all other bits are as they were."""
        weight, mask = np.array(self._read(path)), self.mask(path)
        if mask is not None:
            weight[~mask] = 0
        return weight

    def read(self, path: str) -> NDArray[np.float32]:
        """Reads a weight as `exact` does, with 0.0 in place of -0.0."""
        weight = self.exact(path)
        # An encoding would store -0.0 as a value.
        weight += np.float32(0)
        return weight

    @classmethod
    def of(cls, source: Any, sparsity: float | None = None) -> "WeightSource":
        """Opens the weights of a model, a run or a preset.

        Args:
            source: As in `resolve_source`; so is `sparsity`.
            sparsity: Sparsity of a preset's masks; 0 if None.

        Raises:
            InputError: As `resolve_source`.
        """
        source = resolve_source(source, sparsity)
        if isinstance(source, str):
            return cls._of_preset(source, sparsity or 0.0)
        if isinstance(source, Run):
            return cls._of_run(source)
        return cls._of_model(source)

    @classmethod
    def _of_model(cls, model: GPT) -> "WeightSource":
        weights, masks = model.named_weights(), model.named_masks()
        optimizer = model.optimizer if isinstance(model.optimizer, AdamW) else None
        return cls(
            model.sizes,
            model.sparsity,
            model.mask_settings,
            model.embedding.dtype_policy.name,
            {path: tuple(weight.shape) for path, weight in weights.items()},
            optimizer,
            lambda path: weights[path].numpy(),
            lambda path: masks[path].numpy() if path in masks else None,
        )

    @classmethod
    def _of_run(cls, run: Run) -> "WeightSource":
        from spdf_keras.training.checkpoint import open_checkpoint

        config = run.config()
        weights, bits = open_checkpoint(run.checkpoint())
        shapes = {
            path: tuple(weights.get_slice(path).get_shape())
            for path in weights.keys()  # noqa: SIM118
        }

        @lru_cache(maxsize=1)  # a caller asks for the mask that `read` has used
        def mask(path: str) -> Mask | None:
            if bits is None or path not in bits.keys():  # noqa: SIM118
                return None
            return unpack_mask(bits.get_tensor(path), shapes[path])

        return cls(
            config.model,
            config.sparsity.sparsity,
            config.sparsity,
            config.train.precision,
            shapes,
            pretraining_optimizer(config.model, config.train),
            weights.get_tensor,
            mask,
        )

    @classmethod
    def _of_preset(cls, name: str, sparsity: float) -> "WeightSource":
        preset = get_preset(name)
        seed = preset.train.seed
        weights = skeleton(preset.model, seed=seed).named_weights()
        shapes = {path: tuple(weight.shape) for path, weight in weights.items()}
        masked = prunable_paths(preset.model) if sparsity else {}

        @lru_cache(maxsize=1)  # a caller asks for the mask that `read` has used
        def mask(path: str) -> Mask | None:
            if path not in masked:
                return None
            return random_mask(masked[path], shapes[path], sparsity, seed)

        return cls(
            preset.model,
            sparsity,
            SparsityConfig(sparsity, seed),
            preset.train.precision,
            shapes,
            pretraining_optimizer(preset.model, preset.train),
            lambda path: initial_value(weights[path]).numpy(),
            mask,
        )


def require_finite(path: str, weight: NDArray[Any]) -> None:
    """Refuses a weight that no artefact should have.

    Args:
        path: Path of the weight, as in `GPT.named_weights`.
        weight: Its values.

    Raises:
        InputError: If one of them is NaN or infinite.
    """
    if not np.isfinite(weight).all():
        raise InputError(
            "The model's weights must be finite to be exported. Received: a model "
            f"whose weight '{path}' has NaN or infinity; its training has diverged."
        )


def prunable_paths(sizes: GPTConfig) -> dict[str, str]:
    """Maps the path of each kernel with a mask to the key of the mask's draw."""
    return {
        kernel_path(block, kernel): mask_path(block, kernel)
        for block in map(block_name, range(sizes.num_layers))
        for kernel in KERNELS
    }
