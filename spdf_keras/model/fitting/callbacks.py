"""What `fit` checks and adapts, so that Keras' callbacks work with a GPT."""

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras, refuse_keras3
from spdf_keras.model.language_model import LanguageModel
from spdf_keras.sparsity.remask import remask


class FittedModel(LanguageModel):
    """A language model that trains with every callback of Keras, or says why not."""

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Calls `keras.Model.fit` with weights that are zero under the masks."""
        bound = inspect.signature(keras.Model.fit).bind(self, x, *args, **kwargs)
        callbacks = _as_list(bound.arguments.get("callbacks"))
        refuse_keras3(x=x, callbacks=callbacks)
        _check_rates(getattr(self, "optimizer", None), callbacks)
        if any(weight.dtype == tf.bool for weight in self.weights):
            # A checkpoint's deferred values arrive with the slots, and are masked too.
            create_slots(self)
            remask(self)
        # Keras deletes this after a fit with BackupAndRestore; the next fit needs it.
        self._set_untracked("_training_state", None)
        with _adapted(callbacks), self._resuming(bound.arguments):
            return super().fit(x, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Calls `keras.Model.evaluate`."""
        bound = inspect.signature(keras.Model.evaluate).bind(self, *args, **kwargs)
        refuse_keras3(callbacks=_as_list(bound.arguments.get("callbacks")))
        return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Calls `keras.Model.predict`."""
        bound = inspect.signature(keras.Model.predict).bind(self, *args, **kwargs)
        refuse_keras3(callbacks=_as_list(bound.arguments.get("callbacks")))
        return super().predict(*args, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Calls `keras.Model.make_train_function`, once the optimizer has its slots.

        Slots that were created in the trace would make TensorFlow trace again.
        """
        if force or self.train_function is None:
            create_slots(self)
        return super().make_train_function(force)

    @contextlib.contextmanager
    def _resuming(self, arguments: dict[str, Any]) -> Iterator[None]:
        """Lets a restored `fit` go on at the right batch; see `_skip_and_train`."""
        self._set_untracked("_fit_arguments", arguments)
        self._set_untracked("_unskipping", None)
        try:
            yield
        finally:
            if self._unskipping is not None:
                self.train_function = self._unskipping

    def _maybe_load_initial_counters_from_ckpt(
        self, steps_per_epoch: int | None, initial_epoch: int
    ) -> tuple[int, int]:
        """Returns the epoch and step at which a restored fit goes on.

        Keras sets the epoch and the step, but reads the data from the start.
        """
        epoch, step = super()._maybe_load_initial_counters_from_ckpt(
            steps_per_epoch, initial_epoch
        )
        epochs, data = int(epoch) - initial_epoch, self._fit_arguments.get("x")
        if (epochs or step) and not hasattr(data, "__next__"):
            skipped = int(step)
            asked = self._fit_arguments.get("steps_per_epoch")
            if asked and not _starts_anew(data, asked):
                skipped += epochs * asked
            elif isinstance(data, tf.data.Dataset):
                for _ in range(epochs):
                    iter(data)  # a shuffled dataset has another order each time
            self._set_untracked("_unskipping", self.train_function)
            self.train_function = functools.partial(self._skip_and_train, skipped)
        return epoch, step

    def _skip_and_train(self, count: int, iterator: Any) -> Any:
        self.train_function = self._unskipping
        for _ in range(count):
            next(iterator)
        return self.train_function(iterator)


def _starts_anew(data: Any, steps: int) -> bool:
    """Whether each epoch of so many steps reads the data from the start."""
    return not isinstance(data, tf.data.Dataset) or int(data.cardinality()) == steps


def _as_list(callbacks: Any) -> list[Any]:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    return list(tf.nest.flatten(callbacks)) if callbacks else []


def _check_rates(optimizer: Any, callbacks: list[Any]) -> None:
    """Refuses callbacks that set a learning rate where a schedule overwrites it."""
    rate = getattr(optimizer, "_learning_rate", None)
    if _is_schedule(getattr(optimizer, "_hyper", {}).get("learning_rate")):
        rate = optimizer._hyper["learning_rate"]
    if not _is_schedule(rate):
        return
    setters = keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler
    for callback in callbacks:
        if isinstance(callback, setters):
            raise InputError(
                f"`callbacks` must not set the learning rate of an optimizer with the "
                f"schedule {type(rate).__name__}, which overwrites it in each step. "
                f"Received: {type(callback).__name__}. Compile the model with a float, "
                "as in `model.compile(AdamW(1e-3))`, or build it with "
                "`warmup_tokens=0, final_learning_rate=1.0`."
            )


def _is_schedule(rate: Any) -> bool:
    return isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)


@contextlib.contextmanager
def _adapted(callbacks: list[Any]) -> Iterator[None]:
    """Lets TensorBoard draw masks, which are bool, as images."""
    boards = [c for c in callbacks if isinstance(c, keras.callbacks.TensorBoard)]
    for board in boards:
        draw = board._log_weight_as_image
        board._log_weight_as_image = functools.partial(_draw_numbers, draw)
    try:
        yield
    finally:
        for board in boards:
            del board._log_weight_as_image


def _draw_numbers(draw: Any, weight: Any, name: str, epoch: int) -> None:
    draw(tf.cast(weight, tf.float32), name, epoch)


def is_legacy(optimizer: Any) -> bool:
    """Whether an optimizer is one of `keras.optimizers.legacy`."""
    return isinstance(optimizer, keras.optimizers.legacy.Optimizer)


def create_slots(model: keras.Model) -> None:
    """Creates the variables of the model's optimizer, if it has one without them."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return
    with model.distribute_strategy.scope():
        if is_legacy(optimizer):
            optimizer._create_all_weights(model.trainable_variables)
        else:
            optimizer.build(model.trainable_variables)
