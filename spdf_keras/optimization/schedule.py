"""Learning-rate schedules: a linear warm-up, then a cosine or a line down."""

from typing import Any

import tensorflow as tf

from spdf_keras.keras2 import keras
from spdf_keras.values import as_float, as_type


@keras.saving.register_keras_serializable("spdf_keras")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up to the peak, then a cosine or a line down.

    The first step (number 0) already moves: its rate is `peak / warmup_steps`.
    The end value is reached after `total_steps` and kept.

    Args:
        peak: The highest learning rate.
        warmup_steps: Steps of the warm-up; 0 starts at the peak.
        total_steps: Steps in all, the warm-up included.
        final_fraction: The end value, as a fraction of the peak.
        shape: `cosine` (pre-training, A.1) or `linear` (fine-tuning, A.2).

    Example:
        >>> schedule = WarmupDecay(1.0, warmup_steps=2, total_steps=4, shape="linear")
        >>> [float(schedule(step)) for step in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        peak: float,
        warmup_steps: int,
        total_steps: int,
        final_fraction: float = 0.0,
        shape: str = "cosine",
    ) -> None:
        self.peak = as_float("peak", peak)
        self.warmup_steps = as_type("warmup_steps", int, warmup_steps)
        self.total_steps = as_type("total_steps", int, total_steps)
        self.final_fraction = as_float("final_fraction", final_fraction)
        self.shape = shape

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        warmup = (step + 1.0) / max(self.warmup_steps, 1)
        decay_steps = max(self.total_steps - self.warmup_steps, 1)
        progress = tf.clip_by_value((step - self.warmup_steps) / decay_steps, 0.0, 1.0)
        if self.shape == "cosine":
            remaining = 0.5 * (1.0 + tf.cos(tf.constant(3.14159265358979) * progress))
        else:
            remaining = 1.0 - progress
        decayed = self.final_fraction + (1.0 - self.final_fraction) * remaining
        return self.peak * tf.where(step < self.warmup_steps, warmup, decayed)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "final_fraction": self.final_fraction,
            "shape": self.shape,
        }


# `.h5` files keep only the bare name of a class.
keras.saving.get_custom_objects().setdefault("WarmupDecay", WarmupDecay)
