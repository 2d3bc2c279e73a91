from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spdf_keras.config import GPTConfig

# Small enough that a test may trace several models.
SIZES = GPTConfig(1, 2, 16, vocabulary_size=64, max_sequence_length=16)


@pytest.fixture(scope="session")
def sizes() -> GPTConfig:
    """The smallest model that still has every part."""
    return SIZES


@pytest.fixture(scope="session")
def tokens() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, labels and weights of 8 sequences of 12 tokens."""
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, 64, (2, 8, 12)).astype(np.int32)
    return ids, labels, rng.random((8, 12)).astype(np.float32)


def _nll(model: Any, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The reference: each label's negative log-probability, in NumPy and float64."""
    logits = model(ids).numpy().astype(np.float64)
    own = np.take_along_axis(logits, np.maximum(labels, 0)[..., None], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - own


def _keras_mean(
    model: Any, ids: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """The reference: Keras' loss summed, over the weights; and its gradient's norm."""
    import tensorflow as tf

    from spdf_keras.keras2 import keras

    crossentropy = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="sum"
    )
    with tf.GradientTape() as tape:
        total = crossentropy(labels, model(ids), sample_weight=weights)
        loss = total / weights.sum()
    gradients = tape.gradient(loss, model.trainable_variables)
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    return float(loss), float(tf.linalg.global_norm(dense))


@pytest.fixture(scope="session")
def nll() -> Callable[..., np.ndarray]:
    """Computes each label's negative log-probability from a model's logits."""
    return _nll


@pytest.fixture(scope="session")
def keras_mean() -> Callable[..., tuple[float, float]]:
    """Computes a weighted mean loss and its gradient's norm with Keras alone."""
    return _keras_mean
