"""Keras callbacks that decide what is kept: the best epoch, checkpoints."""

import math
from typing import Any

import tensorflow as tf

from spdf_keras.config import StepConfig
from spdf_keras.errors import TrainingError
from spdf_keras.keras2 import keras
from spdf_keras.sparsity.audit import mask_reports
from spdf_keras.training.callbacks import StepLog, Validate
from spdf_keras.training.checkpoint import save_checkpoint
from spdf_keras.training.run import Run
from spdf_keras.training.stopping import StopRequest


class BestEpoch(keras.callbacks.Callback):
    """Knows the best epoch so far, and stops when some have not improved on it.

    It must come after `validate`.

    Args:
        validate: Measures the loss at the end of each epoch.
        epoch_steps: Steps of an epoch.
        patience: Epochs without a better loss before it stops.
        progress: What `progress` gave in the checkpoint that training goes on from.

    Attributes:
        epoch: Epochs that are done.
        best_epoch: The epoch of the lowest loss, the first of equals; 0 is none.
        loss: The loss after it.
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
        """What a checkpoint keeps of it."""
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
    """Saves a checkpoint every so many steps, and stops where it is asked to.

    Each comes with a record of every mask's density and violations; it must come
    after the other callbacks, whose records it makes lasting. That of the last step is
    left to the caller, who measures the last validation loss before it.

    Args:
        run: Whose checkpoints they are.
        total_steps: Steps of the whole training.
        settings: Says how often to save and how many to keep.
        log: Takes the records of the masks.
        validate: Knows which losses were measured; None where there are none.
        request: Says whether to stop.
        best: Knows the best epoch, in a training that has epochs; a checkpoint is
            also saved after each.
        stop: The variable by which workers stop after the same step; None alone.
        writes: False saves nothing, in workers that do not write.
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
        """Saves a checkpoint now, if there was none of this step.

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
        reports = mask_reports(self.model)
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
