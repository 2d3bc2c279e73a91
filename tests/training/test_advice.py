"""What a training that diverged advises: settings that its command reads."""

import dataclasses
import re
from pathlib import Path

import pytest

from spdf_keras.config import Config, FinetuneConfig
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tasks.e2e import find_split, read_e2e
from spdf_keras.errors import TrainingError
from spdf_keras.training.finetune import finetune
from spdf_keras.training.pretrain import pretrain
from spdf_keras.training.run import Run


def names_in(message: str) -> list[str]:
    return re.findall(r"(?:train|finetune)\.\w+", message)


def test_fine_tuning_names_its_own_settings(
    pretrained: Path, task: Path, tmp_path: Path
) -> None:
    train, held_out = (read_e2e(find_split(task, s)) for s in ("train", "validation"))
    settings = FinetuneConfig(batch_size=4, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(TrainingError, match="is not finite") as caught:
        finetune(Run.open(pretrained), train, held_out, settings, tmp_path / "run")
    message = str(caught.value)
    assert names_in(message) == ["finetune.learning_rate", "finetune.warmup_steps"]
    assert "is none" not in message


def test_pre_training_names_its_own_settings(
    config: Config, shards: Shards, tmp_path: Path
) -> None:
    train = dataclasses.replace(config.train, learning_rate=1e30, clip_norm=0.0)
    broken = dataclasses.replace(config, train=dataclasses.replace(train, beta_1=0.0))
    with pytest.raises(TrainingError, match="is not finite") as caught:
        pretrain(broken, shards, tmp_path / "run")
    assert names_in(str(caught.value)) == ["train.learning_rate", "train.warmup_tokens"]
