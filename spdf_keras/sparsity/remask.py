"""Applies the masks again after something outside the model has assigned values.

Training keeps pruned weights and their moments at zero by itself. A dense checkpoint,
`set_weights` or an assignment may put other values there. The forward pass ignores
them, but weight decay, saved files and `strip` would not.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from spdf_keras.keras2 import keras

# keras2 comes first, as it puts tfmot on the right Keras.
from tensorflow_model_optimization.python.core.sparsity.keras import (  # isort: skip
    pruning_wrapper,
)
from tf_keras.src.mixed_precision import autocast_variable  # isort: skip


def masked(value: Any, mask: Any) -> tf.Tensor:
    """Returns `value` where the mask keeps it, else zero, even for NaN and infinity."""
    value = tf.convert_to_tensor(value)
    return tf.where(tf.cast(mask, tf.bool), value, tf.zeros((), value.dtype))


def remask(model: keras.Model) -> None:
    """Sets all pruned weights and their moments to zero.

    It writes only if one of them is not zero.

    Args:
        model: A model with `PruneFixedRandom` layers and any optimizer.
    """
    optimizer = getattr(model, "optimizer", None)
    # Under mixed precision a cast read would round the float32 master weights.
    with autocast_variable.enable_auto_cast_variables(None):
        for weight, mask in masked_weights(model):
            for variable in (weight, *slots(optimizer, weight)):
                pruned = tf.logical_not(tf.convert_to_tensor(mask))
                if tf.reduce_any(pruned & (tf.convert_to_tensor(variable) != 0)):
                    variable.assign(masked(variable, mask))


def masked_weights(model: keras.Model) -> Iterator[tuple[tf.Variable, tf.Variable]]:
    """Returns every masked weight of a model with its mask, in order.

    Latent weights are left out, as they have values under their masks.
    """
    for layer in pruning_wrapper.collect_prunable_layers(model):
        if getattr(layer, "is_latent", False):
            continue
        for weight, mask, _ in layer.pruning_vars:
            yield weight, mask


def slots(optimizer: Any, weight: tf.Variable) -> list[tf.Variable]:
    """Returns an optimizer's variables for a weight that have the weight's shape.

    Accumulators (Adagrad, Ftrl) are left out, as they start above zero and divide.
    """
    if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        names = [n for n in optimizer.get_slot_names() if n != "accumulator"]
        found = [optimizer.get_slot(weight, name) for name in names]
        return [slot for slot in found if slot is not None]
    indices = getattr(optimizer, "_index_dict", None)
    if not indices:
        return []
    index = indices.get(optimizer._var_key(weight))
    if index is None:
        return []
    lists = [
        values
        for name, values in vars(optimizer).items()
        if isinstance(values, list)
        and name not in ("_variables", "_accumulators")
        and len(values) == len(indices)
    ]
    candidates = [values[index] for values in lists]
    return [
        slot
        for slot in candidates
        if isinstance(slot, tf.Variable) and slot.shape == weight.shape
    ]
