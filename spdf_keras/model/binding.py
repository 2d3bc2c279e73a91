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
            weights or none. They are cast to the layer's compute dtype.

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
    replaced: list[tuple[Any, str, Any]] = []

    def put(layer: Any, attribute: str, *paths: str) -> None:
        # LayerNorm's own weights are float32 in every precision.
        dtype = "float32" if attribute in ("gamma", "beta") else layer.compute_dtype
        found = [tf.cast(tensors[p], dtype) for p in paths]
        replaced.append((layer, attribute, vars(layer)[attribute]))
        is_list = attribute in ("_kernels", "_biases")
        vars(layer)[attribute] = found if is_list else found[0]

    try:
        if "embedding/token" in tensors:
            put(model.embedding, "token_table", "embedding/token")
            put(model.embedding, "position_table", "embedding/position")
        norms = {"final_norm": model.final_norm}
        for block in model.blocks:
            start = block.name
            kernels = [kernel_path(start, name) for name in KERNELS]
            if kernels[0] in tensors:
                put(block, "_kernels", *kernels)
                put(block, "_biases", *(f"{start}/{name}/bias" for name in KERNELS))
            for norm in (block.attention_norm, block.feedforward_norm):
                norms[f"{start}/{norm.name}"] = norm
        for path, norm in norms.items():
            if f"{path}/gamma" in tensors:
                put(norm, "gamma", f"{path}/gamma")
                put(norm, "beta", f"{path}/beta")
        yield
    finally:
        for layer, attribute, value in reversed(replaced):
            vars(layer)[attribute] = value
