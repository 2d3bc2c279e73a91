"""AdamW as the paper's group uses it."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras, refuse_keras3
from spdf_keras.native.build import NotBuiltError
from spdf_keras.native.tensorflow.operations import load_operations
from spdf_keras.native.tensorflow.products import keep
from spdf_keras.optimization.loss_scale import LossScale
from spdf_keras.optimization.update import Move, clip_factor, decays
from spdf_keras.sparsity.algorithms.base import SparsityMethod
from spdf_keras.values import as_float

# A cohort is a number of 16 bits.
_MOST_COHORTS = 2**16


@keras.saving.register_keras_serializable("spdf_keras")
class AdamW(keras.optimizers.AdamW):
    """AdamW with the epsilon of Kingma and Ba's Algorithm 1, safe for masks.

    Differences from the parent: epsilon is added after the bias correction (the
    parent's "epsilon hat" shrinks the first steps of small gradients up to
    30-fold); decay applies to matrices and embedding tables and never to vectors
    (biases, LayerNorm), a rule by rank that survives saving; the update is one
    kernel per variable; and a step whose gradient is not finite changes no weight
    and no moment, in every mode alike, since no part of the update is conditional.

    A weight whose value, gradient and moments are zero stays exactly zero.

    Args:
        learning_rate: A float or a schedule.
        weight_decay: Decoupled decay, times the learning rate, per step.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the corrected second moment.
        global_clipnorm: Bound of the global gradient norm; None does not clip.
        kept_moments: Whether to hold the moments of kept weights alone, for variables
            that `prepare` has given a mask: at 75 % sparsity a quarter of the memory,
            and from equal gradients equal weights to the bit. On CPUs one native pass
            moves the weights; on other devices and with XLA it takes longer per step.
            `auto` does it where products skip the zeros.
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
        kept_moments: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        refuse_keras3(learning_rate=learning_rate)
        kwargs.setdefault("name", "AdamW")
        numbers: dict[str, Any] = {
            "learning_rate": learning_rate,  # or a schedule
            "weight_decay": weight_decay,
            "beta_1": beta_1,
            "beta_2": beta_2,
            "epsilon": epsilon,
            "global_clipnorm": global_clipnorm,
        }
        for key, value in numbers.items():
            if isinstance(value, Real):
                numbers[key] = as_float(key, value)
        super().__init__(**numbers, **kwargs)
        if kept_moments not in (True, False, "auto"):
            raise InputError(
                "`kept_moments` must be true, false or 'auto'. Received: "
                f"{kept_moments!r}."
            )
        self.kept_moments = kept_moments
        self._masks: dict[str, tf.Variable] = {}
        self._counted: set[str] = set()
        self._mask_state: tf.Variable | None = None
        self._starts: tf.Variable | None = None
        self._skips = self._native = False
        self._scale: LossScale | None = None
        self._scale_is_used = False

    def prepare(
        self,
        masks: Iterable[tuple[tf.Variable, tf.Variable]],
        scales_loss: bool,
        skips: bool = False,
        method: SparsityMethod | None = None,
    ) -> None:
        """Registers masks and loss scaling; `GPT.compile` calls it.

        Args:
            masks: Pairs of a variable and its mask.
            scales_loss: Whether gradients come multiplied by `loss_scale`, which
                float16 needs.
            skips: Whether products skip the zeros of some masks, so that there is a
                native library and no XLA.
            method: Updates the masks; None if nothing does.

        Raises:
            InputError: If it shall hold moments of kept weights alone, and their number
                changes.
        """
        self._skips = skips
        pairs, fixed = list(masks), method is None or method.keeps_count
        if self.kept_moments == "auto":
            # Moments that exist, and files with them, keep their layout.
            self.kept_moments = skips and fixed
        if self.kept_moments and not fixed:
            assert method is not None
            raise InputError(
                "`kept_moments` must be false or auto with the method "
                f"{method.config.method}, which changes the number of kept weights. "
                "Received: true."
            )
        keys = {self._var_key(weight): mask for weight, mask in pairs}
        self._masks = keys if self.kept_moments else {}
        if method is not None:
            self._prepare_updates(method, set(keys))
        if not scales_loss:
            self._scale = None
        elif self._scale is None:
            self._scale = LossScale(self.add_variable)

    def _prepare_updates(self, method: SparsityMethod, keys: set[str]) -> None:
        updates = len(method.update_steps())
        counts = method.grows and method.config.own_counts
        self._counted = keys if counts else set()
        # A run that is extended makes the updates of both its schedules.
        size = 2 * updates + 2 if counts else 1
        if size > _MOST_COHORTS:
            raise InputError(
                f"`sparsity.interval` must leave at most {_MOST_COHORTS // 2 - 1:,} "
                f"updates. Received: {method.config.interval}, for {updates:,}."
            )
        if self._mask_state is None:
            self._mask_state, self._starts = (
                tf.Variable(value, trainable=False, name=name)
                for value, name in (
                    (np.array([-1, 0]), "mask_state"),
                    (np.zeros(size, np.float32), "cohort_starts"),
                )
            )
            for variable in (self._mask_state, self._starts):
                self._variables.append(variable)

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        if self.has_slots:
            return
        self._build_index_dict(var_list)
        self._built = True
        self._cohorts: dict[str, tf.Variable] = {}
        self._momentums: list[tf.Variable] = []
        self._velocities: list[tf.Variable] = []
        for variable in var_list:
            mask = self.kept_mask(variable)
            shape = variable.shape
            if mask is not None:
                shape = (int(tf.math.count_nonzero(mask)),)
            for slots, name in ((self._momentums, "m"), (self._velocities, "v")):
                slot = self.add_variable_from_reference(variable, name, shape=shape)
                slots.append(slot)
            if self._var_key(variable) in self._counted:
                self._add_cohort(variable, shape)

    def _add_cohort(self, variable: tf.Variable, shape: Any) -> None:
        strategy = tf.distribute.get_strategy()
        with strategy.extended.colocate_vars_with(variable):
            cohort = tf.Variable(
                tf.zeros(shape, tf.uint16), trainable=False, name="cohort"
            )
        self._variables.append(cohort)
        self._cohorts[self._var_key(variable)] = cohort

    def _use_weight_decay(self, variable: tf.Variable) -> bool:
        return decays(variable.shape)

    @property
    def has_slots(self) -> bool:
        """Whether it was built, so that every variable has its moments."""
        return getattr(self, "_built", False)

    @property
    def scales_loss(self) -> bool:
        """Whether gradients come multiplied by `loss_scale`."""
        return self._scale is not None

    @property
    def loss_scale(self) -> tf.Tensor:
        """The factor of the loss; 1 where the loss needs no scaling."""
        if self._scale is None:
            return tf.constant(1.0)
        self._scale_is_used = True
        return tf.convert_to_tensor(self._scale.value)

    @property
    def scaling_state(self) -> dict[str, tf.Variable]:
        """The variables of the loss scaling by name, for checkpoints."""
        return {} if self._scale is None else self._scale.state

    def slots(self, variable: tf.Variable) -> tuple[tf.Variable, tf.Variable]:
        """The first and second moment of a variable; see `has_slots`.

        The moments of a variable with a `kept_mask` are vectors of its kept weights,
        in the order of rows.
        """
        index = self._index_dict[self._var_key(variable)]
        return self._momentums[index], self._velocities[index]

    def has_slots_of(self, variable: tf.Variable) -> bool:
        """Whether there are moments of a variable; a frozen one has none."""
        return self.has_slots and self._var_key(variable) in self._index_dict

    def kept_mask(self, variable: tf.Variable) -> tf.Variable | None:
        """The mask of a variable whose moments are those of kept weights alone."""
        return self._masks.get(self._var_key(variable))

    @property
    def mask_state(self) -> tf.Variable:
        """Step of the last update of the masks, -1 at first, and their number; int64.

        It is there once `prepare` has got a method.
        """
        assert self._mask_state is not None
        return self._mask_state

    @property
    def cohort_starts(self) -> tf.Variable | None:
        """Adam steps before each cohort grew; None if no method updates masks."""
        return self._starts

    def cohort(self, variable: tf.Variable) -> tf.Variable | None:
        """The cohort of each weight of a variable, uint16; None if it has none.

        It has the shape of the moments. Weights that were there from the start are of
        cohort 0; those that grew in the nth update are of cohort n.
        """
        return self._cohorts.get(self._var_key(variable))

    def states(self, variable: tf.Variable) -> list[tf.Variable]:
        """What has an entry for each weight of a variable: moments, and any cohorts."""
        cohort = self.cohort(variable)
        return [*self.slots(variable), *([] if cohort is None else [cohort])]

    def start_cohort(self, number: int) -> None:
        """Lets a cohort count its steps from the next one on."""
        steps = float(self.iterations.numpy())
        if self._scale is not None:
            steps -= float(self._scale.skipped.numpy())
        self._set_start(number, steps)

    def end_cohort(self, number: int) -> None:
        """Takes `start_cohort` back."""
        self._set_start(number, 0.0)

    def _set_start(self, number: int, steps: float) -> None:
        if self._counted and self._starts is not None:
            starts = self._starts.numpy()
            starts[number] = steps
            self._starts.assign(starts)

    def compute_gradients(
        self, loss: Any, var_list: Any, tape: tf.GradientTape | None = None
    ) -> list[tuple[tf.Tensor, tf.Variable]]:
        """Computes gradients of the loss times `loss_scale`; `minimize` calls it."""
        if not self.scales_loss:
            return super().compute_gradients(loss, var_list, tape)
        if callable(loss):
            return super().compute_gradients(
                lambda: loss() * self.loss_scale, var_list, tape
            )
        assert tape is not None, "a tensor's gradient needs its tape"
        with tape:
            scaled = loss * self.loss_scale
        return super().compute_gradients(scaled, var_list, tape)

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[tf.Tensor, tf.Variable]],
        name: str | None = None,
        skip_gradients_aggregation: bool = False,
        **kwargs: Any,
    ) -> tf.Variable:
        if self.scales_loss and not self._scale_is_used:
            raise InputError(
                "Gradients of a model in mixed_float16 must be of the loss times "
                "`optimizer.loss_scale`. Received: gradients before it was asked for. "
                "Take `optimizer.minimize(loss, variables, tape)`, which does that."
            )
        self.step(grads_and_vars, skip_gradients_aggregation)
        return self.iterations

    def step(
        self,
        grads_and_vars: Iterable[tuple[tf.Tensor, tf.Variable]],
        skip_gradients_aggregation: bool = False,
        native: bool = False,
    ) -> tf.Tensor:
        """Takes a step, as `apply_gradients`.

        Args:
            grads_and_vars: Pairs of a gradient and its variable. The gradient of a
                variable with a `kept_mask` is of its shape, or a vector of the kept
                weights in the order of rows.
            skip_gradients_aggregation: Whether gradients are already summed over
                replicas.
            native: Whether the native library may move kept weights: then the caller
                does not compile the step with XLA.

        Returns:
            The global norm of the gradient before clipping, with loss scaling taken
            out. Where it is not finite, no weight was changed.
        """
        pairs = list(grads_and_vars)
        with tf.init_scope():
            self.build([variable for _, variable in pairs])
        self._compute_current_learning_rate()
        if not skip_gradients_aggregation:
            pairs = self.aggregate_gradients(pairs)
        gradients = [tf.convert_to_tensor(gradient) for gradient, _ in pairs]
        may = bool(self._masks or self._counted) and (native or self._skips)
        self._native = may and _has_operations()
        scale = self.loss_scale
        norm = tf.linalg.global_norm(gradients) / scale
        factor = clip_factor(norm, self.global_clipnorm) / scale
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._update_all,
            self._distribution_strategy,
            [(gradient, v) for gradient, (_, v) in zip(gradients, pairs, strict=True)],
            self._move(factor),
            tf.zeros(()),
        )
        return norm

    def _move(self, factor: tf.Tensor) -> Move:
        """Computes the scalars of this step on one replica."""
        step = tf.cast(self.iterations + 1, tf.float32)
        if self._scale is not None:
            step -= self._scale.skipped
        starts = None
        if self._counted and self._starts is not None:
            starts = tf.convert_to_tensor(self._starts)
        return Move.of(self, self.learning_rate, step, factor, starts)

    # AutoGraph would take longer than the update itself, variable by variable.
    @tf.autograph.experimental.do_not_convert
    def _update_all(self, strategy: Any, pairs: Any, move: Any, zero: Any) -> None:
        kept_before: list[tf.Operation] = []

        def update(
            variable: tf.Variable, gradient: tf.Tensor, move: Move, zero: tf.Tensor
        ) -> None:
            mask = self.kept_mask(variable)
            if mask is not None:
                mask = tf.convert_to_tensor(mask)
            cohort = self.cohort(variable)
            if cohort is not None:
                cohort = tf.convert_to_tensor(cohort)
            if self._native and _fits_operations(variable):
                if mask is not None and gradient.shape.rank > 1:
                    gradient = keep(gradient, mask).values
                slots = self.slots(variable)
                move.apply_natively(variable, gradient, *slots, mask, cohort)
                return
            if mask is None and cohort is None:
                move.apply(variable, gradient, *self.slots(variable), zero)
                return
            if mask is None:
                self._update_counted(variable, gradient, move.counted(cohort))
                return
            if cohort is not None:
                move = move.counted(cohort)
            # Serialised; otherwise the index tensors of all masks are live at once.
            with tf.control_dependencies(kept_before):
                done = self._update_kept(variable, gradient, mask, move)
            kept_before[:] = [] if done is None else [done]

        for gradient, variable in pairs:
            strategy.extended.update(
                variable, update, args=(gradient, move, zero), group=False
            )
        scale, factor = self._scale, move.factor
        if scale is not None:
            strategy.extended.update(scale.value, scale.update, args=(factor,))
        # The count follows the gradient: a batch that the graph refuses is no step.
        with tf.control_dependencies(strategy.experimental_local_results(factor)):
            self.iterations.assign_add(1)

    def _update_counted(
        self, variable: tf.Variable, gradient: tf.Tensor, move: Move
    ) -> None:
        """Moves all weights of a variable, each by its own count."""
        m, v = self.slots(variable)
        weight = tf.convert_to_tensor(variable) * move.shrink
        moved, new_m, new_v = move(weight, gradient, m, v)
        for to, value in ((variable, moved), (m, new_m), (v, new_v)):
            to.assign(value)

    def _update_kept(
        self, variable: tf.Variable, gradient: tf.Tensor, mask: tf.Tensor, move: Move
    ) -> Any:
        """Moves the kept weights of a variable alone, by TensorFlow's operations."""
        m, v = self.slots(variable)
        # The slice tells XLA how many kept weights there are.
        kept = tf.slice(tf.where(mask), (0, 0), (m.shape[0], 2))
        before = tf.gather_nd(tf.convert_to_tensor(variable), kept) * move.shrink
        if gradient.shape.rank > 1:
            gradient = tf.gather_nd(gradient, kept)
        moved, new_m, new_v = move(before, gradient, m, v)
        m.assign(new_m)
        v.assign(new_v)
        return tf.raw_ops.ResourceScatterNdUpdate(
            ref=variable.handle, indices=kept, updates=moved
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kept_moments": self.kept_moments}


def _has_operations() -> bool:
    try:
        load_operations()
    except NotBuiltError:
        return False
    return True


def _fits_operations(variable: tf.Variable) -> bool:
    """Whether a variable lies on a CPU, in the dtype of the native library."""
    device = tf.DeviceSpec.from_string(variable.device)
    return device.device_type in (None, "CPU") and variable.dtype == tf.float32
