"""Keras callbacks: the step log, validation, checkpoints."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from spdf_keras.keras2 import keras
from spdf_keras.training.checkpoint import save_checkpoint
from spdf_keras.training.run import Run

Report = Callable[[dict[str, Any]], None]


class StepLog(keras.callbacks.Callback):
    """Writes a record per step to the run and to TensorBoard.

    Args:
        run: Where the records go.
        total_steps: Steps of the whole training, for the time left.
        report: Also gets each record, as it comes; for a progress display.
    """

    def __init__(
        self, run: Run, total_steps: int, report: Report | None = None
    ) -> None:
        super().__init__()
        self._run, self._total, self._report = run, total_steps, report
        self._events = tf.summary.create_file_writer(str(run.folder / "tensorboard"))
        self._begin = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Validation and checkpoints between steps are not the step's time.
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        record = {
            "step": int(self.model.optimizer.iterations.numpy()),
            "loss": float(logs["batch_loss"]),
            "learning_rate": float(self.model.optimizer.learning_rate.numpy()),
            "seconds": round(now - self._begin, 4),
        }
        self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        """Writes one record, which must have a `step`."""
        self._run.log(record)
        with self._events.as_default(step=record["step"]):
            for name, value in record.items():
                if name != "step":
                    tf.summary.scalar(name, value)
        if self._report:
            self._report({**record, "total_steps": self._total})


class Validate(keras.callbacks.Callback):
    """Measures the validation loss every so many steps.

    Args:
        dataset: The validation batches.
        every: Steps between measurements; 0 never measures.
        log: Takes the records.
    """

    def __init__(self, dataset: tf.data.Dataset, every: int, log: StepLog) -> None:
        super().__init__()
        self._dataset, self._every, self._log = dataset, every, log

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        if self._every and step % self._every == 0:
            self.measure(step)

    def measure(self, step: int) -> float:
        """Measures and logs the loss now."""
        loss = self.model.evaluate(self._dataset, verbose=0, return_dict=True)["loss"]
        self._log.write({"step": step, "validation_loss": float(loss)})
        return float(loss)


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint every so many steps.

    Args:
        folder: Where checkpoints go.
        every: Steps between checkpoints; 0 never saves.
        keep: How many of the newest to keep.
    """

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        super().__init__()
        self._folder, self._every, self._keep = folder, every, keep

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        if self._every and step % self._every == 0:
            save_checkpoint(self.model, self._folder, step, self._keep)
