"""The weights of an XLA export: one safetensors file, dense or as bitmasks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras.errors import InputError
from spdf_keras.export.bitmask import Bitmask, information_bound
from spdf_keras.export.weights import WeightSource, prunable_paths, require_finite
from spdf_keras.export.xla.plan import XLAPlan
from spdf_keras.safetensors_file import safetensors_writer


@dataclass(frozen=True)
class WrittenWeights:
    """The weights of an export as they were written.

    Attributes:
        encoded: Shape and number of non-zeros of each encoded kernel by its path.
        masked: Paths of weights that have a mask.
        checksums: Checksum of each tensor in the file.
        stored_bytes: Bytes of kernels in the file.
        kernel_bytes: Bytes of the same kernels, dense.
        dense_bytes: Bytes of all weights, dense.
        bound_bytes: Bytes that no code of all weights goes below.
        sparsity: Fraction of zeros in the kernels, counted.
    """

    encoded: dict[str, tuple[tuple[int, ...], int]]
    masked: list[str]
    checksums: dict[str, str]
    stored_bytes: int
    kernel_bytes: int
    dense_bytes: int
    bound_bytes: float
    sparsity: float


def write_weights(source: WeightSource, plan: XLAPlan, path: Path) -> WrittenWeights:
    """Writes every weight, and the masks that a training step needs."""
    kernels = prunable_paths(source.sizes)
    trains = "train_step" in plan.signatures
    encoded: dict[str, tuple[tuple[int, ...], int]] = {}
    masked, bits = [], {}
    stored = kernel_bytes = dense_bytes = zeros = size = 0
    bound_bytes = 0.0
    with safetensors_writer(path, 2 * len(source.shapes)) as writer:
        for name in source.shapes:
            weight: NDArray[Any] = source.read(name)
            require_finite(name, weight)
            mask = source.mask(name) if trains else None
            dtype = tf.dtypes.as_dtype(plan.weight_dtype(name)).as_numpy_dtype
            with np.errstate(over="ignore"):
                weight = weight.astype(dtype, copy=False)
            if not np.isfinite(weight).all():
                raise InputError(
                    "`precision` must hold every weight. Received: "
                    f"precision={plan.precision}, in which '{name}' is not finite. "
                    "Take mixed_bfloat16 or float32."
                )
            if mask is not None:
                masked.append(name)
            dense_bytes += weight.nbytes
            if name not in kernels:
                bound_bytes += weight.nbytes
                writer.add(name, weight)
                continue
            code = Bitmask.encode(weight, mask)
            bound_bytes += information_bound(
                weight.size, code.values.size, weight.itemsize
            )
            zeros, size = zeros + weight.size - code.values.size, size + weight.size
            kernel_bytes += weight.nbytes
            if plan.sparse and code.size_bytes < weight.nbytes:
                encoded[name] = weight.shape, code.values.size
                bits[f"{name}.bits"] = code.bits
                writer.add(f"{name}.values", code.values)
                stored += code.size_bytes
            else:
                if mask is not None:
                    bits[f"mask/{name}"] = code.bits
                writer.add(name, weight)
                stored += weight.nbytes
        # Bytes come last, as they would leave the numbers behind them misaligned.
        for name, code_bits in bits.items():
            writer.add(name, code_bits)
    return WrittenWeights(
        encoded=encoded,
        masked=masked,
        checksums=writer.checksums,
        stored_bytes=stored,
        kernel_bytes=kernel_bytes,
        dense_bytes=dense_bytes,
        bound_bytes=bound_bytes,
        sparsity=zeros / size,
    )
