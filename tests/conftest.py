import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras.config import GPTConfig

ROOT = Path(__file__).parents[1]


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
