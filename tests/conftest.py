import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras.config import GPTConfig

ROOT = Path(__file__).parents[1]


# Folders of tests that train, the longest first: two processes share the files of tests
# in this order, so that none of them is left with a long one at the end.
_LONGEST = ("training", "study", "model", "sparsity", "export")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest folders first; the order inside a folder stays."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return _LONGEST.index(folder) if folder in _LONGEST else len(_LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="module", autouse=True)
def _frozen_heap() -> Iterator[None]:
    """Keeps collections of garbage short.

    TensorFlow keeps the graphs of all models of a process. Looked through again and
    again, they made a study's `gc.collect()` take seconds after some hundred tests.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny() -> GPTConfig:
    """A model that builds and steps in a moment."""
    return GPTConfig(2, 4, 64, vocabulary_size=512, max_sequence_length=64)


@pytest.fixture(scope="session")
def token_batches() -> Callable[..., Any]:
    """Makes a dataset of `(token_ids, labels)` for the tiny model."""
    import tensorflow as tf

    def make(count: int, batch_size: int = 4, length: int = 16, seed: int = 0) -> Any:
        rng = np.random.default_rng(seed)
        shape = (count * batch_size, length + 1)
        tokens = rng.integers(0, 512, shape, dtype=np.int32)
        dataset = tf.data.Dataset.from_tensor_slices((tokens[:, :-1], tokens[:, 1:]))
        return dataset.batch(batch_size, drop_remainder=True)

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the public corpora; tests that need it skip without it."""
    folder = Path(os.environ.get("SPDF_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the public corpora are not here; set SPDF_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def sizes() -> GPTConfig:
    """The smallest model that still has every part: a test may trace several."""
    return GPTConfig(1, 2, 16, vocabulary_size=64, max_sequence_length=16)


@pytest.fixture(scope="session")
def tokens() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, labels and weights of 8 sequences of 12 tokens, for `sizes`."""
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
    from spdf_keras.keras2 import keras  # before TensorFlow, for KerasNLP's sake

    import tensorflow as tf  # isort: skip

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
