"""The fine-tuning tasks of a study: their data, settings and main score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spdf_keras.config import Config, config_from_tables
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.data.tasks.task import Example, Task
from spdf_keras.errors import InputError
from spdf_keras.study.entries import parse_entry


@dataclass(frozen=True)
class Target:
    """A task of a study.

    Attributes:
        task: The task.
        config: All settings; those of `[finetune]` and `[decode]` are the task's own.
        examples: The examples that are used, by split.
        text: The examples of the training split whose targets are pre-trained on.
    """

    task: Task
    config: Config
    examples: dict[str, Sequence[Example]]
    text: Sequence[Example]

    @property
    def score(self) -> str:
        """Name of its main score, which judges the search."""
        return self.task.table.scores[0].name

    @property
    def sign(self) -> int:
        """1 where a higher score is better, else -1."""
        return 1 if self.task.table.scores[0].higher_is_better else -1

    def merit(self, record: dict[str, Any]) -> float:
        """Returns the main score of an evaluation, so that the highest is the best."""
        value = record["scores"][self.score]
        return -math.inf if value is None else self.sign * float(value)


def read_targets(config: Config, data: str | Path) -> list[Target]:
    """Reads the tasks that `study.tasks` names.

    Raises:
        InputError: If an entry has another form, a task is named twice, or its data is
            missing.
    """
    study = config.study
    targets: list[Target] = []
    for text in study.tasks:
        name, lines = parse_entry("study.tasks", text, ("finetune", "decode"))
        task = get_task(name)
        if any(target.task is task for target in targets):
            raise InputError(
                "`study.tasks` must name each task once. Received: two entries of "
                f"'{name}'."
            )
        train, validation, test = (
            task.read(data, split) for split in ("train", "validation", "test")
        )
        examples = {
            "train": _spread(train, study.train_inputs),
            "validation": _spread(validation, study.validation_inputs),
            "test": test,
        }
        own = config_from_tables({}, lines, config)
        targets.append(Target(task, own, examples, train if study.task_text else []))
    return targets


def _spread(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """Takes `count` of the examples, evenly spread; all of them if 0."""
    if not 0 < count < len(examples):
        return examples
    return [examples[i * len(examples) // count] for i in range(count)]
