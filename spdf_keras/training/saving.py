"""Keras callbacks that save: they find the best epoch and write checkpoints."""

import math
from typing import Any

import tensorflow as tf

from spdf_keras.config import StepConfig
from spdf_keras.errors import TrainingError
from spdf_keras.keras2 import keras
from spdf_keras.sparsity.audit import audit_masks
from spdf_keras.training.callbacks import StepLog, Validate
from spdf_keras.training.checkpoint import save_checkpoint
from spdf_keras.training.run import Run
from spdf_keras.training.stopping import StopRequest


class BestEpoch(keras.callbacks.Callback):
    """Finds the best epoch, and stops when later epochs have not improved on it.

    It must come after `validate` in the list of callbacks.

    Args:
        validate: Measures the loss at the end of each epoch.
        epoch_steps: Steps of an epoch.
        patience: Number of epochs without a better loss after which training stops.
        progress: The property `progress` as the checkpoint has it from which training
            goes on.

    Attributes:
        epoch: Number of completed epochs.
        best_epoch: The epoch of the lowest loss, the first of equals; 0 is none.
        loss: The loss after the best epoch.
    """

    def __init__(
        self,
        validate: Validate,
        epoch_steps: int,
        patience: int,
        progress: dict[str, Any],
    ) -> None:
        super().__init__()
        self._validate, self._steps, self._patience = validate, epoch_steps, patience
        self.epoch = int(progress.get("epoch", 0))
        self.best_epoch = int(progress.get("best_epoch", 0))
        self.loss = float(progress.get("best_loss", math.inf))

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.epoch - self.best_epoch >= self._patience

    def progress(self) -> dict[str, Any]:
        """The state that a checkpoint keeps."""
        known = {"best_loss": self.loss} if self.best_epoch else {}
        return {"epoch": self.epoch, "best_epoch": self.best_epoch, **known}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        loss = self._validate.at(step)
        if step % self._steps or loss is None:
            return
        self.epoch = step // self._steps
        if loss < self.loss:
            self.loss, self.best_epoch = loss, self.epoch
        if self.is_over:
            self.model.stop_training = True


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint at regular steps, and stops the training on request.

    Each checkpoint comes with a record of every mask's density and violations. This
    callback must come last, since it waits until the other callbacks' records are on
    the disk. The caller saves the checkpoint of the last step, after the last
    validation.

    Args:
        run: The run that gets the checkpoints.
        total_steps: Steps of the whole training.
        settings: Says how often to save and how many checkpoints to keep.
        log: Writes the records of the masks.
        validate: Has the measured validation losses; None without validation data.
        request: Says whether to stop.
        best: Has the best epoch, in a training with epochs; a checkpoint is then
            also saved after each epoch.
        stop: The variable by which workers stop after the same step; None for a
            single worker.
        writes: False saves nothing, in workers other than the chief.
    """

    def __init__(
        self,
        run: Run,
        total_steps: int,
        settings: StepConfig,
        log: StepLog,
        validate: Validate | None,
        request: StopRequest,
        best: BestEpoch | None = None,
        stop: tf.Variable | None = None,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self._run, self._total, self._settings = run, total_steps, settings
        self._log, self._validate, self._writes = log, validate, writes
        self._request, self._best, self._stop = request, best, stop
        self._saved = 0
        self.stopped = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        if step >= self._total:
            return
        if self._stop is None:
            self.stopped = bool(self._request.signal)
        else:
            self.stopped = logs["stop"] > 0
            if self._request.signal:
                self._stop.assign(1.0)  # all workers see it in the next step
        if self.stopped:
            self.model.stop_training = True
        every = self._settings.checkpoint_every
        due = bool(every) and step % every == 0
        if self._best and self._validate and self._validate.at(step) is not None:
            due = True
        if self.stopped or due:
            self.save(step, due)

    def save(self, step: int, due: bool = True) -> None:
        """Saves a checkpoint, unless this step has one already.

        Args:
            step: The last step.
            due: Whether this is a scheduled save; only those are logged.
        """
        if step == self._saved or not self._writes:
            return
        self._log_masks(step, due)
        self._run.sync_metrics()
        save_checkpoint(
            self.model,
            self._run.checkpoint_folder,
            step,
            self._settings.keep_checkpoints,
            self._validate.at(step) if self._validate else None,
            self._best.progress() if self._best else None,
        )
        self._saved = step

    def _log_masks(self, step: int, record: bool) -> None:
        reports = audit_masks(self.model)
        leaking = [report.path for report in reports if report.violations]
        if leaking:
            raise TrainingError(
                f"The mask of '{leaking[0]}' does not hold after step {step}: pruned "
                "weights are not zero. No checkpoint was written of it. Something "
                "outside the model has changed its weights."
            )
        if reports and record:
            self._log.write(
                {
                    "step": step,
                    "density": {r.path: r.density for r in reports},
                    "violations": {r.path: r.violations for r in reports},
                }
            )
