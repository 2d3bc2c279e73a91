"""Counts the masks of a checkpoint, and the weights that leak through them."""

from dataclasses import dataclass
from pathlib import Path

from spdf_keras.errors import InputError
from spdf_keras.model.paths import KERNELS, block_name, parse_kernel_path
from spdf_keras.report.runs.records import RunRecord
from spdf_keras.sparsity.audit import MaskAudit, audit_mask
from spdf_keras.sparsity.masks import mask_path, unpack_mask


@dataclass(frozen=True)
class MaskedMatrix(MaskAudit):
    """A masked matrix of a block.

    Attributes:
        layer: Its block, from 0.
        name: One of `KERNELS`.
    """

    layer: int
    name: str


@dataclass(frozen=True)
class Density:
    """The masked matrices of a run's newest checkpoint, layer by layer."""

    run: RunRecord
    matrices: tuple[MaskedMatrix, ...]

    @property
    def exact(self) -> int:
        """Number of matrices that have as many zeros as the run asked for."""
        asked = self.run.plan.kept(self.run.steps)
        return sum(
            matrix.kept == asked.get(mask_path(block_name(matrix.layer), matrix.name))
            for matrix in self.matrices
        )

    @property
    def asked(self) -> float:
        """The density that the run asked for."""
        return 1 - self.run.plan.at(max(self.run.steps, 1))

    @property
    def violations(self) -> int:
        """Violations of all matrices; there must be none."""
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
    with safe_open(masks, "numpy") as bits, safe_open(weights, "numpy") as file:
        for path in bits.keys():
            place = parse_kernel_path(path)
            if place is None:
                raise ValueError(f"'{path}' is no matrix of a block")
            weight = file.get_tensor(path)
            mask = unpack_mask(bits.get_tensor(path), weight.shape)
            counts = vars(audit_mask(path, mask, [weight]))
            matrices.append(MaskedMatrix(**counts, layer=place[0], name=place[1]))
    return matrices


def _order(matrix: MaskedMatrix) -> tuple[int, int]:
    return matrix.layer, KERNELS.index(matrix.name)
