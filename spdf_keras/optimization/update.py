"""The arithmetic of one AdamW step, on tensors alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from spdf_keras.native.tensorflow.operations import load_operations


class Move(NamedTuple):
    """How one step of AdamW moves weights: scalars that all weights share.

    Attributes:
        factor: Multiplies each gradient, which clips and unscales it; zero where the
            step is not taken.
        shrink: Multiplies each weight that decays.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        alpha: Learning rate with both bias corrections.
        epsilon: Added to the root of the second moment as it is stored.
        alphas: `alpha` by cohort: weights that grew together count their own steps.
        epsilons: `epsilon` by cohort.
    """

    factor: tf.Tensor
    shrink: tf.Tensor
    beta_1: tf.Tensor
    beta_2: tf.Tensor
    alpha: tf.Tensor
    epsilon: tf.Tensor
    alphas: tf.Tensor
    epsilons: tf.Tensor

    @classmethod
    def of(
        cls,
        settings: Any,
        learning_rate: Any,
        step: tf.Tensor,
        factor: tf.Tensor,
        starts: tf.Tensor | None = None,
    ) -> "Move":
        """Computes the scalars of one step.

        Args:
            settings: Has `beta_1`, `beta_2`, `epsilon` and `weight_decay`.
            learning_rate: The rate of this step.
            step: Its number, float32; the first is 1.
            factor: See the class.
            starts: Steps before each cohort has grown, float32; no cohorts if None.
        """
        taken = factor > 0
        beta_1, beta_2 = tf.constant(settings.beta_1), tf.constant(settings.beta_2)
        counts = tf.zeros(0) if starts is None else step - starts
        # One formula for all, so that cohort 0 moves as other variables do, to the bit.
        counts = tf.concat([step[None], counts], 0)
        corrections_1 = 1.0 - tf.pow(beta_1, counts)
        corrections_2 = tf.sqrt(1.0 - tf.pow(beta_2, counts))
        # A step that is not taken keeps the moments, and moves by nothing.
        rate = tf.where(taken, tf.cast(learning_rate, tf.float32), 0.0)
        # The form of Algorithm 1 in which the moments stay uncorrected.
        alphas = rate * corrections_2 / corrections_1
        epsilons = settings.epsilon * corrections_2
        return cls(
            factor,
            1.0 - rate * (settings.weight_decay or 0.0),
            tf.where(taken, beta_1, 1.0),
            tf.where(taken, beta_2, 1.0),
            alphas[0],
            epsilons[0],
            alphas[1:],
            epsilons[1:],
        )

    def counted(self, cohort: tf.Tensor) -> "Move":
        """Returns the move of weights that each count the steps of their cohort."""
        cohort = tf.cast(cohort, tf.int32)
        return self._replace(
            alpha=tf.gather(self.alphas, cohort),
            epsilon=tf.gather(self.epsilons, cohort),
        )

    def scaled(self, gradient: tf.Tensor) -> tf.Tensor:
        """Returns the clipped gradient; a factor of zero makes zero of NaN too."""
        return tf.math.multiply_no_nan(gradient, self.factor)

    def apply_natively(
        self,
        variable: tf.Variable,
        gradient: tf.Tensor,
        m: tf.Variable,
        v: tf.Variable,
        mask: tf.Tensor | None = None,
        cohort: tf.Tensor | None = None,
    ) -> None:
        """Moves weights and their moments in place, in one pass on a CPU.

        It computes what `__call__` does, to the bit.

        Args:
            variable: The variable, float32.
            gradient: Its gradient, not yet `scaled`.
            m: Its first moment.
            v: Its second moment.
            mask: Which weights move; all if None. With it the gradient and the moments
                are vectors of kept weights, in the order of rows.
            cohort: The cohort of each weight, uint16, in the shape of the moments; None
                if all count the steps of the training.

        Raises:
            NotBuiltError: If the native library cannot be compiled.
        """
        scalars = self._asdict()
        tables = scalars.pop("alphas"), scalars.pop("epsilons")
        counted = [] if cohort is None else [cohort]
        if not decays(variable.shape):
            scalars["shrink"] = tf.ones(())
        load_operations().spdf_apply_adam_w(
            var=variable.handle,
            m=m.handle,
            v=v.handle,
            gradient=gradient,
            mask=[] if mask is None else [mask],
            cohort=counted,
            alphas=[tables[0] for _ in counted],
            epsilons=[tables[1] for _ in counted],
            **scalars,
        )

    def apply(
        self,
        variable: tf.Variable,
        gradient: tf.Tensor,
        m: tf.Variable,
        v: tf.Variable,
        zero: tf.Tensor,
    ) -> None:
        """Moves a variable and its moments in place, by TensorFlow's own kernel.

        Args:
            variable: The variable.
            gradient: Its gradient, not yet `scaled`.
            m: Its first moment.
            v: Its second moment.
            zero: A zero that all variables share. It stands for the powers of the
                betas, by which the kernel would correct `alpha` once more.
        """
        if decays(variable.shape):
            variable.assign(variable * self.shrink)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=m.handle,
            v=v.handle,
            beta1_power=zero,
            beta2_power=zero,
            lr=self.alpha,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=self.scaled(gradient),
        )

    def __call__(
        self, weight: tf.Tensor, gradient: tf.Tensor, m: tf.Tensor, v: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Computes what `ResourceApplyAdam` does, in its order, without variables.

        Args:
            weight: The weight, already shrunk if it decays.
            gradient: Its gradient, not yet `scaled`.
            m: Its first moment.
            v: Its second moment.

        Returns:
            The new weight and moments.
        """
        gradient = self.scaled(gradient)
        m = m + (gradient - m) * (1.0 - self.beta_1)
        v = v + (tf.square(gradient) - v) * (1.0 - self.beta_2)
        return weight - (m * self.alpha) / (tf.sqrt(v) + self.epsilon), m, v


def decays(shape: Sequence[int] | tf.TensorShape) -> bool:
    """Whether weights of a shape decay: matrices do, vectors never."""
    return len(shape) >= 2


def clip_factor(norm: tf.Tensor, clip_norm: float | None) -> tf.Tensor:
    """Returns what multiplies gradients of a global norm; 0 if it is not finite."""
    factor = tf.ones_like(norm)
    if clip_norm:
        factor = clip_norm / tf.maximum(norm, clip_norm)
    return tf.where(tf.math.is_finite(norm), factor, 0.0)
