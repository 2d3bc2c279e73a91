"""Lets layers compute with tensors in place of their variables."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from spdf_keras.kernels import as_kernel
from spdf_keras.model.paths import KERNELS

# A layer, the name of an attribute, and the tensor or tensors to put there.
Replacement = tuple[Any, str, Any]


@contextlib.contextmanager
def substituted(replacements: Iterable[Replacement]) -> Iterator[None]:
    """Replaces attributes of layers while the block runs."""
    replacements = list(replacements)
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in replacements]
    try:
        # Keras' own `__setattr__` would track the tensors.
        for owner, name, value in replacements:
            owner.__dict__[name] = value
        yield
    finally:
        for owner, name, value in before:
            owner.__dict__[name] = value


def linear_replacements(
    block: Any, tensors: Mapping[str, tf.Tensor], prefix: str = ""
) -> list[Replacement]:
    """Returns replacements for the six kernels and biases of a block.

    Args:
        block: A `GPTBlock`.
        tensors: Tensors by the block's own paths, such as `query/kernel`, after
            `prefix`. They are cast to the block's compute dtype. A kernel may be a
            `spdf_keras.kernels.Kernel`, which stays as it is.
        prefix: Beginning of every path.
    """

    def cast(kind: str) -> list[Any]:
        values = [tensors[f"{prefix}{name}/{kind}"] for name in KERNELS]
        return [as_kernel(value, block.compute_dtype) for value in values]

    return [(block, "_kernels", cast("kernel")), (block, "_biases", cast("bias"))]


def norm_replacements(
    norm: Any, tensors: Mapping[str, tf.Tensor], path: str
) -> list[Replacement]:
    """Returns replacements for the weights of a LayerNorm.

    Args:
        norm: The layer. Its own weights are float32 in every precision.
        tensors: Tensors by path.
        path: Path of the layer.
    """
    return [
        (norm, name, tf.cast(tensors[f"{path}/{name}"], tf.float32))
        for name in ("gamma", "beta")
    ]
