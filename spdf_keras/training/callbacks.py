"""Keras callbacks that watch a training: the log of steps, and the validation."""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from spdf_keras.errors import TrainingError
from spdf_keras.keras2 import keras
from spdf_keras.training.checkpoint import checkpoint_step
from spdf_keras.training.run import Run
from spdf_keras.training.work import StepWork

Report = Callable[[dict[str, Any]], None]

# The time left is estimated from the median duration of this many last steps.
_RECENT = 50
# Suffix of our event files, which tells them apart from other programs' files.
_EVENTS_SUFFIX = ".spdf_keras"


class StepLog(keras.callbacks.Callback):
    """Writes a record per step to the run and to TensorBoard, and stops on NaN.

    Args:
        run: The run that gets the records. Its earlier records are written to
            TensorBoard again, so that a resumed run shows each step once.
        total_steps: Steps of the whole training, for the time left.
        work: Gives the tokens and operations of each step.
        section: The table that has the learning rate, for the advice: `train` or
            `finetune`.
        report: Called with each record; for a progress display.
        writes: False writes nothing and only looks for NaN, in workers other than
            the chief.
    """

    def __init__(
        self,
        run: Run,
        total_steps: int,
        work: StepWork,
        section: str,
        report: Report | None = None,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self._run, self._total, self._report = run, total_steps, report
        self._work, self._section, self._writes = work, section, writes
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._begin = 0.0
        if writes:
            folder = run.folder / "tensorboard"
            for file in folder.glob(f"events.out.tfevents.*{_EVENTS_SUFFIX}"):
                file.unlink()
            self._events = tf.summary.create_file_writer(
                str(folder), filename_suffix=_EVENTS_SUFFIX
            )
            for record in run.metrics():
                self._show(record)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # The time of a step excludes validation and checkpoints between steps.
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        seconds = time.perf_counter() - self._begin
        optimizer = self.model.optimizer
        step = int(optimizer.iterations.numpy())
        record = {
            "step": step,
            "loss": float(logs["batch_loss"]),
            "learning_rate": float(optimizer.learning_rate.numpy()),
        }
        if "gradient_norm" in logs:
            record["gradient_norm"] = float(logs["gradient_norm"])
        self._check(record)
        if getattr(optimizer, "scales_loss", False):
            record["loss_scale"] = float(optimizer.loss_scale.numpy())
            if not math.isfinite(record["gradient_norm"]):
                record.pop("gradient_norm")  # no number in JSON; the step was skipped
        self._recent.append(seconds)
        left = (self._total - step) * statistics.median(self._recent)
        work = self._work
        total, dense_total = work.total_flops(step)
        record |= {
            "seconds": round(seconds, 4),
            "seconds_left": round(left, 1),
            "tokens_per_second": round(work.tokens(step) / seconds, 1),
            "utilization": float(f"{work.flops(step) / seconds / work.peak:.4g}"),
            "exaflops": total / 1e18,
            "dense_exaflops": dense_total / 1e18,
        }
        self.write(record)

    def _check(self, record: dict[str, Any]) -> None:
        scaled = getattr(self.model.optimizer, "scales_loss", False)
        names = ("loss",) if scaled else ("loss", "gradient_norm")
        bad = [n for n in names if not math.isfinite(record.get(n, 0.0))]
        if scaled and float(self.model.optimizer.loss_scale.numpy()) < 1:
            bad.append("gradient_norm")
        if not bad:
            return
        saved = self._run.checkpoints()
        kept = "it has no checkpoint yet"
        if saved:
            kept = f"its last checkpoint, of step {checkpoint_step(saved[-1])}, is kept"
        rate, warmup = "train.learning_rate", "train.warmup_tokens"
        if self._section == "finetune":
            rate, warmup = "finetune.learning_rate", "finetune.warmup_steps"
        raise TrainingError(
            f"The {bad[0].replace('_', ' ')} of step {record['step']} is not finite "
            f"({record[bad[0]]}), so the training stops: {kept}. A lower {rate} or "
            f"more {warmup} helps, in a new run; so does a model that was pre-trained "
            "in float32, where its precision is another."
        )

    def write(self, record: dict[str, Any]) -> None:
        """Writes a record, which must have a `step`."""
        if not self._writes:
            return
        self._run.log(record)
        self._show(record)
        if self._report:
            self._report({**record, "total_steps": self._total})

    def _show(self, record: dict[str, Any]) -> None:
        with self._events.as_default(step=record["step"]):
            for name, value in record.items():
                values = value.items() if isinstance(value, dict) else [("", value)]
                for path, number in values:
                    if name != "step" and isinstance(number, int | float):
                        tf.summary.scalar(f"{name}/{path}".rstrip("/"), number)


class Validate(keras.callbacks.Callback):
    """Measures the validation loss every so many steps.

    Args:
        dataset: The validation batches.
        steps: Number of validation batches.
        every: Steps between measurements; 0 never measures.
        log: Writes the records.
        is_epoch: Whether `every` steps are an epoch; records then have its number.
    """

    def __init__(
        self,
        dataset: Any,
        steps: int,
        every: int,
        log: StepLog,
        is_epoch: bool = False,
    ) -> None:
        super().__init__()
        self._dataset, self._steps, self._every, self._log = dataset, steps, every, log
        self._is_epoch = is_epoch
        self._last: tuple[int, float] = (0, math.nan)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        if self._every and step % self._every == 0:
            self.measure(step)

    def measure(self, step: int) -> None:
        """Measures and logs the loss, unless this was done at this step already."""
        if self.at(step) is not None:
            return
        results = self.model.evaluate(
            self._dataset, steps=self._steps, verbose=0, return_dict=True
        )
        self._last = step, float(results["loss"])
        epoch = {"epoch": step // self._every} if self._is_epoch else {}
        self._log.write({"step": step, **epoch, "validation_loss": self._last[1]})

    def at(self, step: int) -> float | None:
        """Returns the loss after `step`; None if it was not measured there."""
        return self._last[1] if self._last[0] == step else None
