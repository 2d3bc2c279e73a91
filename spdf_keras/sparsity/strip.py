"""Takes the masks away, for dense fine-tuning."""

import numpy as np

from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras, refuse_keras3

import tensorflow_model_optimization as tfmot  # isort: skip
from tensorflow_model_optimization.python.core.sparsity.keras import (  # isort: skip
    pruning_wrapper,
)


def strip(model: keras.Model) -> keras.Model:
    """Returns the same model without wrappers and masks.

    Its outputs equal the masked model's, even if values were assigned under the masks.
    Every weight trains, and the revived weights start from zero. The new model has its
    own variables (tfmot's `strip_pruning` shares them with the masked model). If the
    model was compiled, it has a fresh optimizer of the same settings, since the old
    moments would push the revived weights 17 times harder than the others.

    Args:
        model: A model from `build_gpt`, or any Keras model with wrapped layers.

    Example:
        >>> from spdf_keras import build_gpt
        >>> dense = strip(build_gpt("gpt_nano", sparsity=0.75))
        >>> dense.sparsity
        0.0
    """
    refuse_keras3(model=model)
    if not isinstance(model, keras.Model):
        raise InputError(
            f"`model` must be a Keras model. Received: {type(model).__name__}."
        )
    masks = {
        id(weight): mask
        for layer in pruning_wrapper.collect_prunable_layers(model)
        for weight, mask, _ in layer.pruning_vars
    }
    shared = tfmot.sparsity.keras.strip_pruning(model)
    dense = keras.models.clone_model(shared)
    # The masked model ignores values under its masks; the dense one must not get them.
    for ours, theirs in zip(dense.weights, shared.weights, strict=True):
        value, mask = theirs.numpy(), masks.get(id(theirs))
        ours.assign(value if mask is None else np.where(mask.numpy(), value, 0))
    config = model.get_compile_config() if model.optimizer else None
    if config:
        dense.compile(**keras.saving.deserialize_keras_object(config))
    return dense
