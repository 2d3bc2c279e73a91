"""Paths of weights: the names by which they are masked, saved, loaded and exported."""

import re

from spdf_keras.config import GPTConfig
from spdf_keras.sparsity.masks import mask_path

# The six matrices of a block that masks apply to, in the order of their seeds.
KERNELS = ("query", "key", "value", "attention_output", "intermediate", "output")

_KERNEL_PATH = re.compile(rf"block_(\d+)/({'|'.join(KERNELS)})/kernel")


def block_name(index: int) -> str:
    """Returns the name of a decoder block; the first has `index` 0."""
    return f"block_{index}"


def masked_shapes(sizes: GPTConfig) -> dict[str, tuple[int, int]]:
    """Returns `(in, out)` of every masked matrix of a model, by its mask path.

    Example:
        >>> masked_shapes(GPTConfig(1, 2, 64))["block_0/output"]
        (256, 64)
    """
    d, inner = sizes.hidden_dim, sizes.intermediate_dim
    shapes = dict.fromkeys(KERNELS, (d, d)) | {
        "intermediate": (d, inner),
        "output": (inner, d),
    }
    return {
        mask_path(block_name(index), name): shape
        for index in range(sizes.num_layers)
        for name, shape in shapes.items()
    }


def kernel_path(block: str, kernel: str) -> str:
    """Returns the path of a block's kernel.

    Args:
        block: From `block_name`.
        kernel: One of `KERNELS`.

    Example:
        >>> kernel_path(block_name(0), "query")
        'block_0/query/kernel'
    """
    return f"{block}/{kernel}/kernel"


def parse_kernel_path(path: str) -> tuple[int, str] | None:
    """Returns the index of the block and the kernel's name; None for other weights.

    Example:
        >>> parse_kernel_path("block_3/attention_output/kernel")
        (3, 'attention_output')
        >>> parse_kernel_path("block_3/query/bias")
    """
    match = _KERNEL_PATH.fullmatch(path)
    return (int(match[1]), match[2]) if match else None
