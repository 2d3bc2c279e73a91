from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spdf_keras.config import GPTConfig


@pytest.fixture(scope="session")
def small() -> GPTConfig:
    """A model of two blocks, as small as they get."""
    return GPTConfig(2, 2, 16, vocabulary_size=32, max_sequence_length=16)


@pytest.fixture(scope="session")
def small_batches() -> Callable[..., Any]:
    """Makes a dataset of `(token_ids, labels)` for the small model."""
    import tensorflow as tf

    def make(count: int, seed: int = 0) -> Any:
        tokens = np.random.default_rng(seed).integers(0, 32, (count * 4, 9), np.int32)
        return tf.data.Dataset.from_tensor_slices(
            (tokens[:, :-1], tokens[:, 1:])
        ).batch(4, drop_remainder=True)

    return make


@pytest.fixture(scope="session")
def leaks() -> Callable[[Any], int]:
    """Counts what is not zero under the masks: weights and everything kept of them.

    It looks through all variables of the optimizer by their shapes and names, without
    the package's own idea of what a moment is.
    """

    def count(model: Any) -> int:
        found, optimizer = 0, getattr(model, "optimizer", None)
        masks = model.named_masks()
        weights = {path: model.named_weights()[path] for path in masks}
        variables = optimizer.variables if optimizer else []
        variables = variables() if callable(variables) else variables
        for path, weight in weights.items():
            pruned = ~masks[path].numpy()
            name = getattr(weight, "_shared_name", weight.name.split(":")[0])
            slots = [
                v
                for v in variables
                if v.shape == weight.shape and name in v.name and len(v.shape) == 2
            ]
            for variable in (weight, *slots):
                found += int(np.count_nonzero(variable.numpy()[pruned]))
        return found

    return count
