"""Updates masks between the steps of `fit`, as the method of `[sparsity]` says.

An update at step `t` comes before step `t + 1`, so weights, gradients and moments of
that step are zero under the new masks. It is computed by NumPy from the float32
weights, alike on all workers, and the graph of a step is that of static masks. A step
that is not taken, since its gradient is not finite, takes its update back; the update
is then made before the next step.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.config import SparsityConfig
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.model.fitting.mask_changes import MaskChange
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.sparsity.algorithms.base import MaskedKernel, SparsityMethod
from spdf_keras.sparsity.updating import counts_at, updated_mask

# Called after each update that a step has kept, with `step`, the number of that step,
# `mask_density`, and `mask_turnover`: dropped weights over those kept before.
Listener = Callable[[dict[str, Any]], None]


class MaskUpdates:
    """The updates of a model's masks.

    Args:
        model: A compiled GPT whose method updates masks.
        method: The method, made with the steps of the whole training.

    Attributes:
        steps: The steps of all updates, rising.
        listeners: See `Listener`.
    """

    def __init__(self, model: Any, method: SparsityMethod) -> None:
        self._model, self._method = model, method
        self.steps = list(method.update_steps())
        self._step: Callable[[Any], Any] | None = None
        self._gradients: Callable[[Any], list[Any]] | None = None
        self.listeners: list[Listener] = []
        optimizer = model.optimizer
        # The step of the last update, and the number of updates.
        self._state = (
            optimizer.mask_state if isinstance(optimizer, AdamW) else np.array([-1, 0])
        )
        self._before = np.array([-1, 0])

    def train_function(self) -> Callable[[Iterator[Any]], Any]:
        """Returns what Keras calls with its iterator for each step.

        Raises:
            InputError: If Keras is to take several steps in one call, or the schedule
                needs the number of all steps and does not know it.
        """
        model, config = self._model, self._method.config
        # `one_shot` has a single step, and an `end` says where other schedules stop;
        # the stages of `redense` are shares of all steps.
        known = config.end and not config.shares or config.method == "one_shot"
        if not self._method.total_steps and not known:
            raise InputError(
                "`total_steps` must be given to `compile` with the method "
                f"{config.method}, whose schedule is a part of all steps. Received: 0."
            )
        several = model.autotune_steps_per_execution or (
            model._steps_per_execution is not None
            and int(model._steps_per_execution.numpy()) != 1
        )
        if several or model._cluster_coordinator:
            raise InputError(
                f"`steps_per_execution` must be 1 with the method "
                f"{config.method}, which updates masks between steps. "
                "Received: several steps in one call."
            )
        self._step = None

        def train_function(iterator: Iterator[Any]) -> Any:
            data = next(iterator)
            changes = self._update(data)
            if self._step is None:
                # A callback may have restored other masks since the model was built.
                model.note_densities()
                self._step = _step_function(model)
            try:
                logs = self._step(data)
            except tf.errors.OpError:  # such as a token id outside the vocabulary
                self._take_back(changes)
                raise
            norm = float(logs.get("gradient_norm", 0.0)) if changes else 0.0
            if not math.isfinite(norm):
                self._take_back(changes)
            elif changes:
                self._tell(changes)
            return logs

        return train_function

    def due(self, step: int) -> int | None:
        """Returns the step of the update that comes next, if it is not after `step`."""
        last = int(self._read_state()[0])
        return max((at for at in self.steps if last < at <= step), default=None)

    def _read_state(self) -> Any:
        state = self._state
        return state if isinstance(state, np.ndarray) else state.numpy()

    def _write_state(self, last: int, count: int) -> None:
        if isinstance(self._state, np.ndarray):
            self._state[:] = last, count
        else:
            self._state.assign([last, count])

    def _update(self, data: Any) -> list[MaskChange]:
        """Makes the update that is due; returns its changes, none without one."""
        model, method = self._model, self._method
        step = int(model.optimizer.iterations.numpy())
        at = self.due(step)
        if at is None:
            return []
        gradients: list[Any] = []
        if method.needs_gradient:
            if self._gradients is None:
                self._gradients = model.ranking_function()
            gradients = [g.numpy() for g in self._gradients(data)]
            if not all(np.isfinite(gradient).all() for gradient in gradients):
                return []  # the step will not be taken
        with model.distribute_strategy.scope():
            return self._change(at, gradients)

    def _change(self, at: int, gradients: list[Any]) -> list[MaskChange]:
        model, method = self._model, self._method
        weights, masks = model.named_weights(), model.named_masks()
        self._before = self._read_state().copy()
        count = int(self._before[1]) + 1

        def kernels() -> Iterator[MaskedKernel]:
            for index, (path, mask) in enumerate(masks.items()):
                yield MaskedKernel(
                    path.removesuffix("/kernel"),
                    weights[path].numpy(),
                    mask.numpy(),
                    gradients[index] if gradients else None,
                )

        now = {path.removesuffix("/kernel"): m.numpy() for path, m in masks.items()}
        before = {path: int(np.count_nonzero(mask)) for path, mask in now.items()}
        shapes = {path: mask.shape for path, mask in now.items()}
        kept = counts_at(method, at, shapes, before, kernels)
        changes = []
        if isinstance(model.optimizer, AdamW) and method.grows:
            model.optimizer.start_cohort(count)
        for kernel, (path, mask) in zip(kernels(), masks.items(), strict=True):
            new = updated_mask(method, kernel, kept[kernel.path], at)
            change = MaskChange(model.optimizer, weights[path], mask)
            change.make(new, count, clears=not method.is_latent)
            changes.append(change)
        self._write_state(at, count)
        self._note_densities()
        return changes

    def _take_back(self, changes: list[MaskChange]) -> None:
        """Restores what was before an update whose step was not taken."""
        if not changes:
            return
        with self._model.distribute_strategy.scope():
            for change in changes:
                change.take_back()
            if isinstance(self._model.optimizer, AdamW) and self._method.grows:
                self._model.optimizer.end_cohort(int(self._read_state()[1]))
            self._write_state(*map(int, self._before))
        self._note_densities()

    def _tell(self, changes: list[MaskChange]) -> None:
        if not self.listeners:
            return
        masks = [mask.numpy() for mask in self._model.named_masks().values()]
        kept = sum(int(np.count_nonzero(mask)) for mask in masks)
        dropped = sum(change.dropped for change in changes)
        grown = sum(change.grown for change in changes)
        before = max(kept + dropped - grown, 1)
        record = {
            "step": int(self._model.optimizer.iterations.numpy()),
            "mask_density": kept / sum(mask.size for mask in masks),
            "mask_turnover": dropped / before,
        }
        for listener in self.listeners:
            listener(record)

    def finish(self) -> None:
        """Makes the weights of the last masks exact, where a method leaves others.

        Call it after the last step of a training.
        """
        if not self._method.is_latent:
            return
        weights, masks = self._model.named_weights(), self._model.named_masks()
        with self._model.distribute_strategy.scope():
            self._change(int(self._read_state()[0]), [])
            for path, mask in masks.items():
                values = weights[path].numpy()
                weights[path].assign(np.where(mask.numpy(), values, 0))

    def _note_densities(self) -> None:
        """Traces the step again where kernels begin or end to skip their zeros."""
        if self._model.note_densities():
            self._step = None


def _step_function(model: Any) -> Callable[[Any], Any]:
    """Returns Keras' step of training as a function of a batch."""

    def run_step(data: Any) -> Any:
        outputs = model.train_step(data)
        numbers = [v for v in tf.nest.flatten(outputs) if tf.is_tensor(v)]
        with tf.control_dependencies(numbers):
            model._train_counter.assign_add(1)
        return outputs

    def step(data: Any) -> Any:
        run = run_step
        if model.jit_compile:
            run = tf.function(run_step, jit_compile=True, reduce_retracing=True)
        strategy = model.distribute_strategy
        outputs = strategy.run(run, args=(data,))
        # What `train_step` returns is already reduced over the replicas.
        return tf.nest.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], outputs
        )

    return step if model.run_eagerly else tf.function(step, reduce_retracing=True)


def check_optimizer(optimizer: Any, settings: SparsityConfig) -> None:
    """Refuses optimizers whose slots cannot follow masks that change.

    Raises:
        InputError: If it is a legacy one or scales the loss of another.
    """
    scales = isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)
    if scales or not isinstance(optimizer, keras.optimizers.Optimizer):
        raise InputError(
            "`optimizer` must be one of `keras.optimizers`, neither of its `legacy` "
            f"nor inside a LossScaleOptimizer, with the method {settings.method}. "
            f"Received: {type(optimizer).__name__}. Take "
            "spdf_keras.optimization.adamw.AdamW."
        )
