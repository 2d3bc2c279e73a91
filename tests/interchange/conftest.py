"""A model, its run, its checkpoint, and transformers in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.data.tokenizers.bpe import Tokenizer

PROGRAM = Path(__file__).parents[1] / "support" / "transformers_peer.py"
TEXTS = ["low lower lowest newer new wide", "café naïve 東京 2,048 tokens"] * 4
SIZES = GPTConfig(2, 2, 32, vocabulary_size=300, max_sequence_length=48)


@pytest.fixture(scope="session")
def transformers() -> Callable[..., Any]:
    """Calls the program with transformers, and returns what it prints."""
    python = os.environ.get("SPDF_TRANSFORMERS_PYTHON", "")
    if not python:
        if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
            pytest.skip(
                "torch and transformers are not here: install the extra "
                "`interchange-test`, or name the Python that has them in "
                "SPDF_TRANSFORMERS_PYTHON"
            )
        python = sys.executable

    def call(*arguments: Any) -> Any:
        words = [
            word if isinstance(word, str | Path) else json.dumps(word)
            for word in arguments
        ]
        # The package and its Keras are not for that process.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [python, PROGRAM, *words],
            env={**environment, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout) if done.stdout.strip() else None

    return call


@pytest.fixture(scope="session")
def peer_logits(
    transformers: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path, np.ndarray], np.ndarray]:
    """Returns the logits of transformers for a checkpoint and token ids."""

    def call(folder: Path, token_ids: np.ndarray) -> np.ndarray:
        place = tmp_path_factory.mktemp("logits")
        np.save(place / "ids.npy", token_ids)
        transformers("logits", folder, place / "ids.npy", place / "out.npy")
        found: np.ndarray = np.load(place / "out.npy")
        return found

    return call


def noisy(model: GPT, seed: int = 0) -> GPT:
    """Gives every weight a value that matters; masks hold."""
    random = np.random.default_rng(seed)
    masks = model.named_masks()
    for path, weight in model.named_weights().items():
        noise = random.normal(0, 0.2, weight.shape).astype(np.float32)
        mask = tf.cast(masks[path], tf.float32) if path in masks else 1.0
        weight.assign((weight + noise) * mask)
    return model


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 280)


@pytest.fixture(scope="session")
def small() -> GPTConfig:
    """A model with more rows than its tokenizer has tokens."""
    return SIZES


@pytest.fixture(scope="session")
def sparse_model() -> GPT:
    return noisy(build_gpt(SIZES, sparsity=0.75, seed=3))


@pytest.fixture(scope="session")
def token_ids() -> np.ndarray:
    return np.random.default_rng(0).integers(300, size=(2, 40)).astype(np.int32)


@pytest.fixture(scope="session")
def exported(
    sparse_model: GPT, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The checkpoint of the sparse model, as an export here writes it."""
    from spdf_keras.export import to_huggingface

    folder = tmp_path_factory.mktemp("export") / "checkpoint"
    to_huggingface(sparse_model, folder, tokenizer=tokenizer)
    return folder
