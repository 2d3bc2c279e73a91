"""The record of a run, which `reader` reads.

A fact that the run has not recorded is `None` or empty here, and the report names it
as missing.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from spdf_keras.config import Config, LoRAConfig, SparsityConfig
from spdf_keras.flops import forward_flops, training_flops
from spdf_keras.model.sparsity_plan import SparsityPlan


def planned_tokens(config: Config) -> int:
    """The number of tokens of a pre-training, which a setting of 0 leaves to its size.

    Example:
        >>> planned_tokens(Config()) == 20 * Config().model.num_parameters
        True
    """
    return config.train.tokens or 20 * config.model.num_parameters


@dataclass(frozen=True)
class Curve:
    """Losses, or other numbers, by step."""

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
    """The command, versions and hardware that made a run or an evaluation."""

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
        protocol: Name of the scoring protocol.
        inputs: Number of inputs that were decoded.
        decode: The `[decode]` settings.
        scores: Scores in the official program's units; None where that fails.
        errors: Reason of each score that is None.
        parts: Scores of each part of the inputs, such as `seen`.
        samples: A few inputs with outputs.
        conditions: Command, versions and hardware.
        step: Step of the checkpoint that was scored; None if not recorded.
        finished: Whether the run was finished at that step.
        seconds: Time that decoding and scoring took; 0 if not recorded.
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
    seconds: float = 0.0


@dataclass(frozen=True)
class Origin:
    """The pre-training that a run is or started from; None means not recorded.

    `masks` are its `[sparsity]` settings, which a fine-tuning knows only if its
    pre-training is in the report.
    """

    sparsity: float | None = None
    method: str = "static"
    seed: int | None = None
    mask_seed: int | None = None
    tokens: int | None = None
    flops: float | None = None
    validation_loss: float | None = None
    masks: SparsityConfig | None = None


@dataclass(frozen=True)
class RunRecord:
    """A run.

    Attributes:
        folder: Its folder.
        name: Its name in the report: the argument, or a path below the argument.
        kind: `pretrain` or `finetune`.
        config: Its settings.
        finished: Whether it recorded a result; runs of earlier versions did not.
        origin: Its pre-training.
        task: Task of a fine-tuning; empty if not recorded.
        masks: `stripped` or `kept` for a fine-tuning; empty if not recorded.
        base: The run that a fine-tuning started from.
        steps: Number of steps that were done.
        sequences: Number of training sequences seen. For a fine-tuning that has not
            recorded it, steps times the batch size, although the last batch of an
            epoch may be smaller.
        training: Loss of every step.
        validation: Validation losses.
        checkpoint: The checkpoint that stands for it: that of the best epoch of a
            fine-tuning, the newest of a pre-training.
        evaluations: Its evaluations.
        conditions: Command, versions and hardware.
        started: The time at which it started.
        length: Tokens in a sequence; the most that a fine-tuning allows.
        number: Its number in the report, from 1.
        planned_steps: Number of steps of the whole run; None if not recorded.
        mask_density: Kept weights over all masked ones, after each update of masks.
        mask_turnover: Dropped weights over those kept before, in each update.
        seconds: Time that its steps took, without repeated ones; 0 if not recorded.
        step_flops: FLOPs that its steps recorded, in all; None if they did not.
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
    mask_density: Curve = Curve((), ())
    mask_turnover: Curve = Curve((), ())
    seconds: float = 0.0
    step_flops: float | None = None

    @property
    def seed(self) -> tuple[int | None, int | None]:
        """Data seed and mask seed, in which pre-trainings of equal settings differ."""
        return self.origin.seed, self.origin.mask_seed

    @property
    def steps_in_all(self) -> int | None:
        """Number of steps of the whole run; None if not known."""
        if self.kind == "pretrain":
            return self.config.train.total_steps(self.config.model, self.length)
        return self.planned_steps

    @property
    def plan(self) -> SparsityPlan:
        """The sparsity of its masks, step by step."""
        steps = self.steps_in_all or self.steps
        return SparsityPlan(self.config.model, self.config.sparsity, steps)

    @cached_property
    def mean_sparsity(self) -> float:
        """The mean sparsity of the masked matrices, over the steps that were done."""
        return self.plan.mean(self.steps)

    @property
    def lora(self) -> LoRAConfig | None:
        """The settings of the adapter that it trains, if it does."""
        return None if self.kind == "pretrain" else self.config.finetune.lora

    @property
    def forward_flops(self) -> float:
        """FLOPs of a forward pass of the longest sequence; zeros count as skipped."""
        return forward_flops(self.config.model, self.length, self.mean_sparsity)

    @property
    def training_flops(self) -> float:
        """FLOPs of a forward and a backward pass of the longest sequence."""
        return training_flops(
            self.config.model, self.length, self.mean_sparsity, self.lora
        )

    @property
    def total_flops(self) -> float:
        """FLOPs of this training so far."""
        return self.sequences * self.training_flops

    @property
    def own_flops(self) -> float:
        """FLOPs of this training, of its padded batches where its steps recorded them.

        Else each sequence counts as the longest one.
        """
        return self.total_flops if self.step_flops is None else self.step_flops

    @property
    def all_flops(self) -> float | None:
        """FLOPs of this training and of the pre-training before it, if recorded."""
        if self.kind == "pretrain" or self.origin.flops is None:
            return self.origin.flops  # a pre-training is its own origin
        return self.origin.flops + self.own_flops
