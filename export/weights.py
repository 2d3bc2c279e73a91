"""Where an export gets its weights from, one at a time.

A model in memory has them all; a run's checkpoint and a preset's initial weights
are read as they are needed, so that an export needs no memory for the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import GPTConfig, check_sparsity, get_preset
from spdf_keras.errors import InputError
from spdf_keras.model.binding import initial_value, skeleton
from spdf_keras.model.block import GPTBlock
from spdf_keras.model.gpt import GPT
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.optimization.recipes import pretraining_optimizer
from spdf_keras.sparsity.masks import random_mask, unpack_mask
from spdf_keras.training.run import Run

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class WeightSource:
    """The weights of a GPT, and what is known of it.

    Attributes:
        sizes: Its sizes.
        sparsity: Sparsity of its masks; 0 without masks.
        precision: Its precision, such as `mixed_bfloat16`.
        shapes: Shape of each weight by its path, as in `GPT.named_weights`.
        optimizer: How it is pre-trained; None if that is not `AdamW`.
    """

    sizes: GPTConfig
    sparsity: float
    precision: str
    shapes: dict[str, tuple[int, ...]]
    optimizer: AdamW | None
    _read: Callable[[str], NDArray[np.float32]]
    _mask: Callable[[str], Mask | None]

    def mask(self, path: str) -> Mask | None:
        """The mask of a weight, 1 is kept; None where it has none."""
        return self._mask(path)

    def read(self, path: str) -> NDArray[np.float32]:
        """A weight, zero where its mask is; -0.0 becomes 0.0."""
        weight, mask = np.array(self._read(path)), self.mask(path)
        if mask is not None:
            weight *= mask
        # A mask leaves -0.0 of a negative weight, which would count as a value.
        weight += np.float32(0)
        return weight

    @classmethod
    def of(cls, source: Any, sparsity: float | None = None) -> "WeightSource":
        """That of a model, a `Run`, or a preset's name.

        Args:
            source: One of these. A run's newest checkpoint counts.
            sparsity: For a preset: sparsity of its initial weights; 0 if None.

        Raises:
            InputError: If it is none of these, or is no run.
        """
        if isinstance(source, GPT):
            return cls._of_model(source)
        if isinstance(source, Run):
            return cls._of_run(source)
        if isinstance(source, str):
            return cls._of_preset(source, sparsity or 0.0)
        raise InputError(
            "`model` must be a GPT from `build_gpt`, a Run or a preset's name. "
            f"Received: {type(source).__name__}."
        )

    @classmethod
    def _of_model(cls, model: GPT) -> "WeightSource":
        weights, masks = model.named_weights(), model.named_masks()
        optimizer = model.optimizer if isinstance(model.optimizer, AdamW) else None
        return cls(
            model.sizes,
            model.sparsity,
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

        @lru_cache(maxsize=1)  # `read` asks for it too
        def mask(path: str) -> Mask | None:
            known = bits is not None and path in bits.keys()  # noqa: SIM118
            return unpack_mask(bits.get_tensor(path), shapes[path]) if known else None

        return cls(
            config.model,
            config.sparsity.sparsity,
            config.train.precision,
            shapes,
            pretraining_optimizer(config.model, config.train),
            weights.get_tensor,
            mask,
        )

    @classmethod
    def _of_preset(cls, name: str, sparsity: float) -> "WeightSource":
        preset, sparsity = get_preset(name), check_sparsity(sparsity)
        seed = preset.train.seed
        weights = skeleton(preset.model, seed=seed).named_weights()
        shapes = {path: tuple(weight.shape) for path, weight in weights.items()}
        masked = prunable_paths(preset.model) if sparsity else {}

        @lru_cache(maxsize=1)  # `read` asks for it too
        def mask(path: str) -> Mask | None:
            if path not in masked:
                return None
            return random_mask(masked[path], shapes[path], sparsity, seed)

        return cls(
            preset.model,
            sparsity,
            preset.train.precision,
            shapes,
            pretraining_optimizer(preset.model, preset.train),
            lambda path: initial_value(weights[path]).numpy(),
            mask,
        )


def prunable_paths(sizes: GPTConfig) -> dict[str, str]:
    """Path of each kernel that masks apply to, and what its mask is drawn by."""
    return {
        f"block_{index}/{name}/kernel": f"block_{index}/{name}"
        for index in range(sizes.num_layers)
        for name in GPTBlock.prunable_names
    }
