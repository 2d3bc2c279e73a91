"""Takes the masks away, for dense fine-tuning."""

from spdf_keras.keras2 import keras

import tensorflow_model_optimization as tfmot  # isort: skip


def strip(model: keras.Model) -> keras.Model:
    """Returns the same model without wrappers and masks.

    Its outputs equal the masked model's; every weight trains, the revived ones
    starting from zero. It has its own variables (tfmot's `strip_pruning` alone
    shares them with the masked model) and, where the model was compiled, a fresh
    optimizer of the same settings: the old moments would push the revived
    weights 17 times harder than the others.

    Args:
        model: A model from `build_gpt`, or any Keras model with wrapped layers.

    Example:
        >>> from spdf_keras import build_gpt
        >>> dense = strip(build_gpt("gpt_nano", sparsity=0.75))
        >>> dense.sparsity
        0.0
    """
    shared = tfmot.sparsity.keras.strip_pruning(model)
    dense = keras.models.clone_model(shared)
    dense.set_weights(shared.get_weights())
    config = model.get_compile_config() if model.optimizer else None
    if config:
        dense.compile(**keras.saving.deserialize_keras_object(config))
    return dense
