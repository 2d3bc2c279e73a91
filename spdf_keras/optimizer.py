"""AdamW as the paper's group uses it, and the warm-up schedules."""

from typing import Any

import tensorflow as tf

from spdf_keras.config import StepConfig
from spdf_keras.keras2 import keras


@keras.saving.register_keras_serializable("spdf_keras")
class AdamW(keras.optimizers.AdamW):
    """AdamW with the epsilon of Kingma and Ba's Algorithm 1, in one fused op.

    Three differences from the parent: epsilon is added after the bias
    correction (the parent's "epsilon hat" shrinks the first steps of small
    gradients up to 30-fold); decay applies to matrices and embedding tables and
    never to vectors (biases, LayerNorm), a rule by rank that survives saving;
    and the update is one kernel per variable.

    A weight whose value, gradient and moments are zero stays exactly zero.

    Args:
        learning_rate: A float or a schedule.
        weight_decay: Decoupled decay, times the learning rate, per step.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the corrected second moment.
        global_clipnorm: Bound of the global gradient norm; None does not clip.
        **kwargs: The parent's other arguments.

    Reference:
        [Loshchilov and Hutter, 2017](https://arxiv.org/abs/1711.05101);
        settings of appendix A.1.
    """

    def __init__(
        self,
        learning_rate: Any = 6e-4,
        weight_decay: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        global_clipnorm: float | None = 1.0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", "AdamW")
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            global_clipnorm=global_clipnorm,
            **kwargs,
        )

    def _use_weight_decay(self, variable: tf.Variable) -> bool:
        return len(variable.shape) >= 2

    @property
    def has_slots(self) -> bool:
        """Whether it was built, so that every variable has its moments."""
        return hasattr(self, "_momentums")

    def slots(self, variable: tf.Variable) -> tuple[tf.Variable, tf.Variable]:
        """The first and second moment of a variable; see `has_slots`."""
        index = self._index_dict[self._var_key(variable)]
        return self._momentums[index], self._velocities[index]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        momentum, velocity = self.slots(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        beta_1 = tf.constant(self.beta_1, tf.float32)
        beta_2 = tf.constant(self.beta_2, tf.float32)
        beta_2_power = tf.pow(beta_2, step)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=beta_2_power,
            lr=tf.cast(self.learning_rate, tf.float32),
            beta1=beta_1,
            beta2=beta_2,
            # The op's epsilon is "hat"; so scaled it is Algorithm 1's.
            epsilon=self.epsilon * tf.sqrt(1.0 - beta_2_power),
            grad=tf.convert_to_tensor(gradient),
        )


def adamw(settings: StepConfig, learning_rate: Any) -> AdamW:
    """The optimizer of `settings`, with a learning rate or schedule."""
    return AdamW(
        learning_rate,
        settings.weight_decay,
        settings.beta_1,
        settings.beta_2,
        settings.epsilon,
        settings.clip_norm or None,
    )


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
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.final_fraction = final_fraction
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
