"""Lets a GPT compute with tensors in place of its weights.

A program that takes its weights as arguments is thus made by the layers themselves,
not by a copy of their formulas, and a model larger than the memory runs block by block.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable

from spdf_keras.config import GPTConfig
from spdf_keras.model.build import functional_gpt
from spdf_keras.model.gpt import GPT
from spdf_keras.model.paths import KERNELS, kernel_path
from spdf_keras.model.substitution import (
    Replacement,
    linear_replacements,
    norm_replacements,
    substituted,
)


def skeleton(sizes: GPTConfig, precision: str = "float32", seed: int = 0) -> GPT:
    """Builds a dense GPT without memory for its weights, which must all be `bound`.

    Args:
        sizes: Sizes of the model.
        precision: Precision of its layers, such as `mixed_bfloat16`.
        seed: Seed of the `initial_value` of its weights.
    """
    with tf.variable_creator_scope(_create_without_value):
        return functional_gpt(sizes, seed=seed, precision=precision)


def initial_value(weight: tf.Variable) -> tf.Tensor:
    """Draws the initial value of one weight of a `skeleton`."""
    return weight.draw()


def _create_without_value(next_creator: Any, **kwargs: Any) -> tf.Variable:
    variable = UninitializedVariable(
        kwargs["trainable"], dtype=kwargs["dtype"], shape=kwargs["shape"]
    )
    variable.draw = kwargs["initial_value"]
    return variable


@contextlib.contextmanager
def bound(model: GPT, tensors: Mapping[str, tf.Tensor]) -> Iterator[None]:
    """Puts tensors in the place of weights while the block runs.

    Args:
        model: From `skeleton`.
        tensors: Tensors by path, as in `GPT.named_weights`: for each layer all of its
            weights or none. They are cast to the layer's compute dtype. Kernels of
            blocks may be a `spdf_keras.kernels.Kernel` of any kind.

    Example:
        >>> model = skeleton(GPTConfig(1, 2, 8, vocabulary_size=16))
        >>> weights = {
        ...     path: tf.zeros(weight.shape)
        ...     for path, weight in model.named_weights().items()
        ... }
        >>> with bound(model, weights):
        ...     model(tf.zeros((1, 4), tf.int32)).shape
        TensorShape([1, 4, 16])
    """
    replacements: list[Replacement] = []
    if "embedding/token" in tensors:
        embedding = model.embedding
        for table in ("token", "position"):
            value = tf.cast(tensors[f"embedding/{table}"], embedding.compute_dtype)
            replacements.append((embedding, f"{table}_table", value))
    norms = {"final_norm": model.final_norm}
    for block in model.blocks:
        if kernel_path(block.name, KERNELS[0]) in tensors:
            replacements += linear_replacements(block, tensors, f"{block.name}/")
        for norm in (block.attention_norm, block.feedforward_norm):
            norms[f"{block.name}/{norm.name}"] = norm
    for path, norm in norms.items():
        if f"{path}/gamma" in tensors:
            replacements += norm_replacements(norm, tensors, path)
    with substituted(replacements):
        yield
