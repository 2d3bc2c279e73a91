"""The optimizers and schedules of appendix A, from settings."""

from typing import Any

from spdf_keras.config import FinetuneConfig, GPTConfig, StepConfig, TrainConfig
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.optimization.schedule import WarmupDecay


def adamw(settings: StepConfig, learning_rate: Any) -> AdamW:
    """Returns the optimizer of `settings`, with a learning rate or schedule."""
    return AdamW(
        learning_rate,
        settings.weight_decay,
        settings.beta_1,
        settings.beta_2,
        settings.epsilon,
        settings.clip_norm or None,
        settings.kept_moments,
    )


def pretraining_schedule(
    sizes: GPTConfig, train: TrainConfig, sequence_length: int = 0
) -> WarmupDecay:
    """Returns the learning rate of each step in appendix A.1.

    Args:
        sizes: The sizes of the model.
        train: Its pre-training settings.
        sequence_length: Tokens per sequence, which with the batch size turns
            tokens into steps; 0 is the model's context.
    """
    return WarmupDecay(
        train.learning_rate,
        train.warmup_steps(sizes, sequence_length),
        train.total_steps(sizes, sequence_length),
        train.final_learning_rate,
    )


def pretraining_optimizer(
    sizes: GPTConfig, train: TrainConfig, sequence_length: int = 0
) -> AdamW:
    """Returns AdamW with the `pretraining_schedule`.

    A schedule that neither rises nor falls is a float, which callbacks may set.
    """
    if not train.warmup_tokens and train.final_learning_rate == 1:
        return adamw(train, train.learning_rate)
    return adamw(train, pretraining_schedule(sizes, train, sequence_length))


def finetuning_schedule(settings: FinetuneConfig, total_steps: int) -> WarmupDecay:
    """Returns the learning rate of each step in appendix A.2, a line down to zero.

    The warm-up is at most a tenth of all steps.
    """
    warmup = min(settings.warmup_steps, total_steps // 10)
    return WarmupDecay(settings.learning_rate, warmup, total_steps, shape="linear")


def finetuning_optimizer(settings: FinetuneConfig, total_steps: int) -> AdamW:
    """Returns AdamW with the `finetuning_schedule`."""
    return adamw(settings, finetuning_schedule(settings, total_steps))
