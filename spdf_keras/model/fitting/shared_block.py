"""One trace of a block for all blocks of a training step.

Blocks of one kind differ in their weights alone. Traced one by one, the blocks take
most of the time before the first step; as a function of the weights, one trace serves
all. TensorFlow inlines the calls before it optimizes the graph, so a step computes the
same operations as without the function.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record

from spdf_keras.keras2 import keras
from spdf_keras.kernels import SkippingKernel
from spdf_keras.model.block import GPTBlock
from spdf_keras.model.substitution import (
    Replacement,
    linear_replacements,
    norm_replacements,
    substituted,
)
from spdf_keras.sparsity.wrapper import PruneFixedRandom, unwrap


class SharedBlock:
    """A function of hidden states and a block, traced once for all blocks.

    A tape traces its gradient, as it does for a whole model, so that gradients are
    added in the same order, and a step has the same result to the bit. The gradient
    that TensorFlow derives from a function would add in another order.

    Args:
        template: The block that is traced; `are_alike` must hold for it and the others.
    """

    def __init__(self, template: keras.layers.Layer) -> None:
        self._template = template
        self._forward = tf.function(self._trace, autograph=False)
        self._backward: Any = None

    def __call__(
        self,
        block: keras.layers.Layer,
        x: tf.Tensor,
        kernels: dict[str, SkippingKernel],
    ) -> tf.Tensor:
        """Applies `block` to hidden states as in training.

        Args:
            block: The block.
            x: The hidden states.
            kernels: From `StepKernels.of_block`.
        """
        weights = _tensors(unwrap(block).named_weights())
        masks = _tensors(_masks(block))
        handles = {name: kernel.kept for name, kernel in kernels.items()}
        layouts = {name: kernel.layout for name, kernel in kernels.items()}
        inputs = x, weights, masks, handles, layouts
        forward = self._forward.get_concrete_function(*inputs)
        with record.stop_recording():
            y, kept = forward(*inputs)
        record.record_operation(
            "SharedBlock",
            [y],
            _sources(x, weights, handles),
            lambda dy: self._backward._call_flat([dy], kept),
        )
        return y

    def _trace(
        self,
        x: tf.Tensor,
        weights: dict[str, tf.Tensor],
        masks: dict[str, tf.Tensor],
        handles: dict[str, tf.Tensor],
        layouts: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Computes the block, and the tensors that its gradient needs."""
        sources = _sources(x, weights, handles)
        kernels = {
            name: SkippingKernel(handle, layouts[name], weights[f"{name}/kernel"].shape)
            for name, handle in handles.items()
        }
        with tf.GradientTape() as tape:
            tape.watch(sources)
            replacements = _replacements(self._template, {**weights, **masks})
            if kernels:
                replacements.append((self._template, "given_kernels", kernels))
            with substituted(replacements):
                y = self._template(x, training=True)

        def backward(dy: tf.Tensor) -> list[tf.Tensor]:
            return tape.gradient(y, sources, dy)

        self._backward = tf.function(backward, autograph=False).get_concrete_function(
            tf.TensorSpec(y.shape, y.dtype)
        )
        return y, list(self._backward.captured_inputs)


def are_alike(blocks: Sequence[keras.layers.Layer]) -> bool:
    """Whether the blocks differ in their weights alone, and no user has changed one."""
    kinds = [_kind(block) for block in blocks]
    return all(kind is not None and kind == kinds[0] for kind in kinds)


def _kind(layer: keras.layers.Layer) -> Any:
    """Returns all that one trace depends on; None for a layer that is not ours."""
    block = unwrap(layer)
    if type(block) is not GPTBlock or type(layer) not in (GPTBlock, PruneFixedRandom):
        return None
    for part in (layer, block):
        if "call" in vars(part) or part.activity_regularizer is not None:
            return None
    config = block.get_config()
    for own in ("name", "seed", "trainable"):
        config.pop(own)
    variables = {**block.named_weights(), **_masks(layer)}
    shapes = [(name, tuple(v.shape)) for name, v in variables.items()]
    parts = [type(part) for part in layer._flatten_layers()]
    policies = [layer.dtype_policy.name, block.dtype_policy.name]
    sparse_names = getattr(layer, "skipped_names", ())
    return config, shapes, parts, policies, sparse_names


def _masks(layer: keras.layers.Layer) -> dict[str, tf.Variable]:
    if not isinstance(layer, PruneFixedRandom):
        return {}
    names = [f"{name}/mask" for name in layer.layer.prunable_names]
    return dict(zip(names, layer.masks, strict=True))


def _sources(
    x: tf.Tensor, weights: dict[str, tf.Tensor], handles: dict[str, tf.Tensor]
) -> list[tf.Tensor]:
    """Returns what has a gradient; that of a kernel with a handle flows there."""
    without = {f"{name}/kernel" for name in handles}
    own = [weights[path] for path in sorted(weights) if path not in without]
    return [x, *own, *map(handles.get, sorted(handles))]


def _tensors(variables: dict[str, tf.Variable]) -> dict[str, tf.Tensor]:
    return {name: tf.convert_to_tensor(v) for name, v in variables.items()}


def _replacements(
    layer: keras.layers.Layer, tensors: dict[str, tf.Tensor]
) -> list[Replacement]:
    """Returns replacements for all variables of a block and its wrapper."""
    block = unwrap(layer)
    replacements = linear_replacements(block, tensors)
    for norm in (block.attention_norm, block.feedforward_norm):
        replacements += norm_replacements(norm, tensors, norm.name)
    if isinstance(layer, PruneFixedRandom):
        masks = [tensors[f"{name}/mask"] for name in block.prunable_names]
        replacements.append((layer, "masks", masks))
    return replacements
