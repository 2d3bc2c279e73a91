"""A model of another library, opened: what it is at once, its weights one by one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import (
    Config,
    DecodeConfig,
    GPTConfig,
    SparsityConfig,
    TrainConfig,
)
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError

if TYPE_CHECKING:
    from spdf_keras.model.gpt import GPT

Weights = Iterator[tuple[str, NDArray[np.float32]]]


@dataclass(frozen=True, eq=False)
class ForeignModel:
    """A model of another library.

    Attributes:
        sizes: Its sizes.
        read: Reads each weight once, float32 with the path of `GPT.named_weights`.
        tokenizer: Reads its tokenizer.
        decode: How it is to decode.
        sparsity: The settings of its masks.
        masks: Each mask by the path of its kernel; empty for a dense model.
        notes: Sentences about what was left out.
        origin: Where it comes from, for the record of a run.
        files: The files of its weights.
    """

    sizes: GPTConfig
    read: Callable[[], Weights]
    tokenizer: Callable[[], Tokenizer]
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def config(self) -> Config:
        """The settings of a run with this model; those of training are defaults."""
        return Config(
            model=self.sizes,
            sparsity=self.sparsity,
            train=TrainConfig(),
            decode=self.decode,
        )

    def build(self) -> "GPT":
        """Builds the GPT with the weights and masks; it is not compiled.

        Raises:
            InputError: If a weight is not 0 where its mask is, or cannot be used.
        """
        from spdf_keras.model.build import configured_gpt

        model = configured_gpt(self.config())
        weights, masks = model.named_weights(), model.named_masks()
        for path, mask in self.masks.items():
            masks[path].assign(mask)
        for path, value in self.read():
            pruned = ~self.masks[path] if path in self.masks else None
            if pruned is not None and np.any(value[pruned]):
                raise InputError(
                    f"A weight must be 0 where its mask is. Received: '{path}', which "
                    "is not: the masks belong to other weights. Remove the masks to "
                    "read the weights as those of a dense model."
                )
            weights[path].assign(
                value if pruned is None else np.where(pruned, 0, value)
            )
        return model
