"""Draws and packs fixed random masks, in NumPy alone.

A mask depends on the seed and on the weight's path alone. It does not depend on the
device, the order of layers, the distribution strategy or NumPy's generators.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import check_sparsity
from spdf_keras.errors import InputError
from spdf_keras.sparsity.ranking import random_ranks, top
from spdf_keras.values import as_type


def mask_path(layer: str, kernel: str) -> str:
    """Returns the path by which the mask of a layer's kernel is drawn.

    Args:
        layer: Name of the layer, such as `block_0`.
        kernel: Name of the kernel in it, such as `query`.
    """
    return f"{layer}/{kernel}"


def num_zeros(size: int, sparsity: float) -> int:
    """Returns how many of `size` weights are zero: `round(sparsity * size)`."""
    return round(sparsity * size)


def random_mask(
    path: str, shape: tuple[int, ...], sparsity: float, seed: int
) -> NDArray[np.bool_]:
    """Draws the mask of one weight, once, at random.

    The number of zeros is exact: `round(sparsity * size)`. Each path has its
    own random stream, so equal shapes get different masks and a new layer
    changes no other mask.

    Args:
        path: `mask_path` of the weight, such as `block_0/query`. `weight.name` does
            not serve, as several weights may share it.
        shape: Shape of the weight.
        sparsity: Fraction of zeros, in `[0, 1)`.
        seed: Seed of the masks.

    Returns:
        A `bool` array of `shape`: True is kept, False is pruned.

    Raises:
        InputError: If `sparsity` is outside `[0, 1)`.

    Example:
        >>> int(random_mask("a/kernel", (2, 4), 0.75, seed=0).sum())
        2

    Reference:
        [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464), appendix
        A.1, "Sparsity Setup".
    """
    sparsity = check_sparsity(sparsity, where=f" for weight '{path}'")
    seed = as_type("seed", int, seed)
    size = math.prod(shape)
    keep = size - num_zeros(size, sparsity)
    if keep == size:
        return np.ones(shape, np.bool_)
    return top(~random_ranks(f"{seed}:{path}", size), keep).reshape(shape)


def spread_kept(kept: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Returns an array with zeros between kept entries, as the mask says.

    Args:
        kept: `(kept,)`, in the order of rows.
        mask: True where an entry is kept.

    Example:
        >>> spread_kept(np.array([3, 4]), np.array([[True, False], [False, True]]))
        array([[3, 0],
               [0, 4]])
    """
    spread = np.zeros(mask.shape, kept.dtype)
    spread[mask] = kept
    return spread


def pack_mask(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Packs a mask to one bit per weight, row by row, the highest bit first."""
    return np.packbits(mask)


def unpack_mask(bits: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Unpacks a mask that `pack_mask` packed.

    Raises:
        InputError: If `bits` has another size or dtype than a mask of `shape`.
    """
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != ((size + 7) // 8,):
        raise InputError(
            f"A packed mask of shape {shape} must be {(size + 7) // 8} bytes of "
            f"uint8. Received: shape {bits.shape}, dtype {bits.dtype}."
        )
    return np.unpackbits(bits, count=size).astype(np.bool_).reshape(shape)
