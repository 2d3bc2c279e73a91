"""What the masks in a checkpoint are, and whether anything leaks through them."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spdf_keras.errors import InputError
from spdf_keras.report.runs.records import RunRecord
from spdf_keras.sparsity.masks import num_zeros, unpack_mask

# As the paper names the six matrices of a block.
MATRICES = {
    "query": "W_Q",
    "key": "W_K",
    "value": "W_V",
    "attention_output": "W_D",
    "intermediate": "W_I",
    "output": "W_O",
}
_PATH = re.compile(r"block_(\d+)/(\w+)/kernel")


@dataclass(frozen=True)
class MaskedMatrix:
    """A masked matrix.

    Attributes:
        layer: Its block, from 0.
        name: Which of the six it is, such as `query`.
        size: Its weights.
        kept: How many the mask keeps.
        violations: Weights that are not zero where the mask is.
    """

    layer: int
    name: str
    size: int
    kept: int
    violations: int

    @property
    def density(self) -> float:
        """Kept weights over all weights."""
        return self.kept / self.size


@dataclass(frozen=True)
class Density:
    """The masked matrices of a run's newest checkpoint, layer by layer."""

    run: RunRecord
    matrices: tuple[MaskedMatrix, ...]

    @property
    def exact(self) -> int:
        """How many have the number of zeros that was asked for, to the weight."""
        sparsity = self.run.config.sparsity.sparsity
        return sum(
            m.size - m.kept == num_zeros(m.size, sparsity) for m in self.matrices
        )

    @property
    def violations(self) -> int:
        """Of all matrices; must be 0."""
        return sum(matrix.violations for matrix in self.matrices)


def read_density(run: RunRecord) -> Density | None:
    """Reads the masks and the masked weights of a run, one matrix at a time.

    Returns:
        None for a run without masks: dense, stripped, or without a checkpoint.

    Raises:
        InputError: If the checkpoint is damaged.
    """
    if run.checkpoint is None:
        return None
    masks = run.checkpoint / "masks.safetensors"
    if not masks.is_file():
        return None
    try:
        matrices = _read(masks, run.checkpoint / "weights.safetensors")
    except Exception as error:  # safetensors has an exception class of its own
        raise InputError(
            f"The checkpoint '{run.checkpoint}' is damaged or incomplete: {error}. "
            "Remove its folder to report the one before."
        ) from error
    return Density(run, tuple(sorted(matrices, key=_order)))


def _read(masks: Path, weights: Path) -> list[MaskedMatrix]:
    from safetensors import safe_open

    matrices = []
    with safe_open(masks, "numpy") as bits, safe_open(weights, "numpy") as values:
        for path in bits.keys():
            found = _PATH.fullmatch(path)
            if not found:
                raise ValueError(f"'{path}' is no matrix of a block")
            weight = values.get_tensor(path)
            mask = unpack_mask(bits.get_tensor(path), weight.shape)
            matrices.append(
                MaskedMatrix(
                    layer=int(found[1]),
                    name=found[2],
                    size=mask.size,
                    kept=int(mask.sum()),
                    violations=int(np.count_nonzero(weight[~mask])),
                )
            )
    return matrices


def _order(matrix: MaskedMatrix) -> tuple[int, int]:
    names = list(MATRICES)
    known = matrix.name in MATRICES
    return matrix.layer, names.index(matrix.name) if known else len(names)
