import dataclasses
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.config import Config, config_from_tables
from spdf_keras.data.samples.restaurants import (
    generate_restaurants,
    pretraining_text,
    write_csv,
)
from spdf_keras.data.shards.prepare import write_shards
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tokenizers.bpe import Tokenizer


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """A small corpus of the embedded text, in sequences of 32 tokens."""
    texts = list(pretraining_text(200, seed=0))
    folder = tmp_path_factory.mktemp("corpus") / "shards"
    write_shards(texts, Tokenizer.train(texts, 400), 32, folder, 0.05)
    return Shards.open(folder)


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the csv files of a tiny task."""
    folder = tmp_path_factory.mktemp("task")
    write_csv(
        generate_restaurants(12, seed=1, num_references=1), folder / "trainset.csv"
    )
    write_csv(generate_restaurants(5, seed=2, num_references=2), folder / "devset.csv")
    return folder


@pytest.fixture(scope="session")
def config() -> Config:
    """A 20-step pre-training that writes a checkpoint every 5 steps."""
    model = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "vocabulary_size": 400}
    train: dict[str, Any] = {
        "batch_size": 4,
        "tokens": 20 * 4 * 32,
        "warmup_tokens": 2 * 4 * 32,
        "learning_rate": 3e-3,
        "checkpoint_every": 5,
        "validate_every": 10,
    }
    tables = {"model": {**model, "max_sequence_length": 256}, "train": train}
    return config_from_tables({**tables, "sparsity": {"sparsity": 0.75, "seed": 3}})


@pytest.fixture(scope="session")
def pretrained(
    config: Config, shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run folder of that pre-training; tests must not change it."""
    from spdf_keras.training.pretrain import pretrain

    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    pretrain(dataclasses.replace(config), shards, folder)
    return folder
