"""Loss scaling, which float16 gradients need so that they do not underflow."""

from collections.abc import Callable

import tensorflow as tf

# The scale doubles after so many good steps in a row.
_INITIAL_SCALE, _LARGEST_SCALE, _GROWTH_STEPS = 2.0**15, 2.0**24, 2000


class LossScale:
    """A scale of the loss that halves at each overflow and grows while there is none.

    Args:
        add_variable: The method of an optimizer, which then saves the variables.

    Attributes:
        value: The scale, a variable.
        good_steps: Steps without an overflow since the scale changed.
        skipped: Steps that were not taken.
    """

    def __init__(self, add_variable: Callable[..., tf.Variable]) -> None:
        self.value, self.good_steps, self.skipped = (
            add_variable((), name=name)
            for name in ("loss_scale", "good_steps", "skipped")
        )
        self.value.assign(_INITIAL_SCALE)

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The variables by name, for checkpoints."""
        return {
            "loss_scale": self.value,
            "good_steps": self.good_steps,
            "skipped": self.skipped,
        }

    def update(self, value: tf.Variable, factor: tf.Tensor) -> None:
        """Adapts the scale after a step.

        Args:
            value: The scale on this device.
            factor: What multiplied the gradients; zero if the step was not taken.
        """
        taken = factor > 0
        good = tf.where(taken, self.good_steps + 1.0, 0.0)
        grows = good >= _GROWTH_STEPS
        up = tf.minimum(tf.where(grows, value * 2.0, value), _LARGEST_SCALE)
        value.assign(tf.where(taken, up, value / 2.0))
        self.good_steps.assign(tf.where(grows, 0.0, good))
        self.skipped.assign_add(tf.where(taken, 0.0, 1.0))
