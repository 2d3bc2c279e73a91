"""One small sparse model and its two `.tflite` files, made once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.export import ExportCard, to_tflite

SIZES = GPTConfig(2, 4, 64, vocabulary_size=512, max_sequence_length=64)


@pytest.fixture(scope="session")
def model() -> GPT:
    """75 % sparse; every weight counts, and masks hide weights that are not zero."""
    model = build_gpt(SIZES, sparsity=0.75, seed=1)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign_add(random.normal(0, 0.1, weight.shape).astype(np.float32))
    return model


@pytest.fixture(scope="session")
def files(model: GPT, tmp_path_factory: Any) -> dict[str, ExportCard]:
    """The cards of a dense and a sparse file: prompts of 16 tokens, caches of 48."""
    folder: Path = tmp_path_factory.mktemp("tflite")
    return {
        name: to_tflite(
            model,
            folder / f"{name}.tflite",
            sparse=name == "sparse",
            prompt_length=16,
            cache_length=48,
        )
        for name in ("dense", "sparse")
    }
