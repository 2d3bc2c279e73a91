"""What a report knows of a run; `collect` reads it.

What a run has not recorded is `None` or empty here, and named as missing in the
report.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spdf_keras.config import Config
from spdf_keras.flops import forward_flops, training_flops


@dataclass(frozen=True)
class Curve:
    """Losses by step."""

    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()

    @property
    def last(self) -> float | None:
        """The newest loss."""
        return self.losses[-1] if self.losses else None

    @property
    def best(self) -> float | None:
        """The lowest loss that is a number."""
        return min(filter(math.isfinite, self.losses), default=None)


@dataclass(frozen=True)
class Conditions:
    """What made something: a command, on what, with which versions."""

    command: str = ""
    versions: str = ""
    hardware: str = ""


@dataclass(frozen=True)
class Sample:
    """An input with a model's output and the texts that people wrote."""

    context: str
    hypothesis: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a run on a split of a task.

    Attributes:
        task: The task.
        split: `validation` or `test`.
        protocol: How it was scored.
        inputs: How many inputs were decoded.
        decode: The `[decode]` settings.
        scores: In the official program's units; None where that fails.
        errors: Why, by score.
        parts: The same of a part of the inputs, such as `seen`.
        samples: A few inputs with outputs.
        conditions: What made it.
        step: The step of the checkpoint that was scored; None is not recorded.
        finished: Whether the run was finished then.
    """

    task: str
    split: str
    protocol: str
    inputs: int | None
    decode: dict[str, Any]
    scores: dict[str, float | None]
    errors: dict[str, str]
    parts: dict[str, dict[str, float | None]]
    samples: tuple[Sample, ...]
    conditions: Conditions
    step: int | None = None
    finished: bool = True


@dataclass(frozen=True)
class Origin:
    """The pre-training that a run is, or started from; None is not recorded."""

    sparsity: float | None = None
    seed: int | None = None
    mask_seed: int | None = None
    tokens: int | None = None
    flops: float | None = None
    validation_loss: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """A run.

    Attributes:
        folder: Where it is.
        name: How the report calls it: as given, or relative to what was given.
        kind: `pretrain` or `finetune`.
        config: Its settings.
        finished: Whether it recorded a result; runs of earlier versions did not.
        origin: Its pre-training.
        task: Of a fine-tuning; empty where it is not recorded.
        masks: Of a fine-tuning: `stripped`, `kept`, or empty.
        base: The run that a fine-tuning started from.
        steps: Steps that were done.
        sequences: Training sequences seen. Of a fine-tuning that has not recorded it,
            steps times the batch size: the last batch of an epoch may be smaller.
        training: Loss of every step.
        validation: Validation loss where it was measured.
        checkpoint: The checkpoint that stands for it: the newest, of a fine-tuning
            that of the best epoch.
        evaluations: Its evaluations.
        conditions: What made it.
        started: When.
        length: Tokens in a sequence; in fine-tuning, in the longest that it allows.
        number: Its number in the report, from 1.
        planned_steps: Steps that it is to do, where it has recorded them.
    """

    folder: Path
    name: str
    kind: str
    config: Config
    finished: bool
    origin: Origin
    task: str
    masks: str
    base: str
    steps: int
    sequences: int
    training: Curve
    validation: Curve
    checkpoint: Path | None
    evaluations: tuple[Evaluation, ...]
    conditions: Conditions
    started: str
    length: int
    number: int = field(default=0, compare=False)
    planned_steps: int | None = None

    @property
    def seed(self) -> tuple[int | None, int | None]:
        """What tells pre-trainings of equal settings apart: data and mask seed."""
        return self.origin.seed, self.origin.mask_seed

    @property
    def steps_in_all(self) -> int | None:
        """Steps from its beginning to its end; None where that is not known."""
        if self.kind == "pretrain":
            return self.config.train.total_steps(self.config.model, self.length)
        return self.planned_steps

    @property
    def forward_flops(self) -> float:
        """Of one sequence of this training at its longest, zeros skipped."""
        return forward_flops(
            self.config.model, self.length, self.config.sparsity.sparsity
        )

    @property
    def training_flops(self) -> float:
        """The same of forward and backward pass."""
        return training_flops(
            self.config.model, self.length, self.config.sparsity.sparsity
        )

    @property
    def total_flops(self) -> float:
        """Of this training so far."""
        return self.sequences * self.training_flops
