"""Keras callbacks: the step log with its alarm, validation, checkpoints."""

import math
import shutil
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from spdf_keras.errors import TrainingError
from spdf_keras.keras2 import keras
from spdf_keras.sparsity.report import mask_reports
from spdf_keras.training.checkpoint import checkpoint_step, save_checkpoint
from spdf_keras.training.run import Run
from spdf_keras.training.stopping import StopRequest
from spdf_keras.training.work import StepWork

Report = Callable[[dict[str, Any]], None]

# Steps whose median duration gives the time left.
_RECENT = 50


class StepLog(keras.callbacks.Callback):
    """Writes a record per step to the run and to TensorBoard, and stops on NaN.

    Args:
        run: Where the records go. What it holds is shown in TensorBoard again, so
            that a resumed run has each step once there too.
        total_steps: Steps of the whole training, for the time left.
        report: Also gets each record, as it comes; for a progress display.
        work: What a step computes; without it, records tell no speed.
        writes: False only looks out for NaN, in workers that do not write.
    """

    def __init__(
        self,
        run: Run,
        total_steps: int,
        report: Report | None = None,
        work: StepWork | None = None,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self._run, self._total, self._report = run, total_steps, report
        self._work, self._writes = work, writes
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._begin = 0.0
        if writes:
            folder = run.folder / "tensorboard"
            shutil.rmtree(folder, ignore_errors=True)
            self._events = tf.summary.create_file_writer(str(folder))
            for record in run.metrics():
                self._show(record)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Validation and checkpoints between steps are not the step's time.
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
        record |= {"seconds": round(seconds, 4), "seconds_left": round(left, 1)}
        if self._work:
            work = self._work
            record |= {
                "tokens_per_second": round(work.tokens / seconds, 1),
                "utilization": float(f"{work.flops / seconds / work.peak:.4g}"),
                "exaflops": step * work.flops / 1e18,
                "dense_exaflops": step * work.dense_flops / 1e18,
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
        is_finetuning = self._run.origin().get("kind") == "finetune"
        rate, warmup = "train.learning_rate", "train.warmup_tokens"
        if is_finetuning:
            rate, warmup = "finetune.learning_rate", "finetune.warmup_steps"
        raise TrainingError(
            f"The {bad[0].replace('_', ' ')} of step {record['step']} is not finite "
            f"({record[bad[0]]}), so the training stops: {kept}. A lower {rate} or "
            f"more {warmup} helps, in a new run; so does a model that was pre-trained "
            "in float32, where its precision is another."
        )

    def write(self, record: dict[str, Any]) -> None:
        """Writes one record, which must have a `step`."""
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
        steps: How many there are.
        every: Steps between measurements; 0 never measures.
        log: Takes the records.
    """

    def __init__(self, dataset: Any, steps: int, every: int, log: StepLog) -> None:
        super().__init__()
        self._dataset, self._steps, self._every, self._log = dataset, steps, every, log
        self._last: tuple[int, float] = (0, math.nan)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        if self._every and step % self._every == 0:
            self.measure(step)

    def measure(self, step: int) -> None:
        """Measures and logs the loss now, if it was not yet at this step."""
        if self.at(step) is not None:
            return
        results = self.model.evaluate(
            self._dataset, steps=self._steps, verbose=0, return_dict=True
        )
        self._last = step, float(results["loss"])
        self._log.write({"step": step, "validation_loss": self._last[1]})

    def at(self, step: int) -> float | None:
        """The loss after `step`, where it was measured there."""
        return self._last[1] if self._last[0] == step else None


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint every so many steps, and stops where it is asked to.

    Each comes with a record of every mask's density and violations; it must come
    after the other callbacks, whose records it makes lasting. That of the last step is
    left to the caller, who measures the last validation loss before it.

    Args:
        run: Whose checkpoints they are.
        total_steps: Steps of the whole training.
        every: Steps between checkpoints; 0 never saves.
        keep: How many of the newest to keep.
        log: Takes the records of the masks.
        validate: Knows which losses were measured; None where there are none.
        request: Says whether to stop.
        stop: The variable by which workers stop after the same step; None alone.
        writes: False saves nothing, in workers that do not write.
    """

    def __init__(
        self,
        run: Run,
        total_steps: int,
        every: int,
        keep: int,
        log: StepLog,
        validate: Validate | None,
        request: StopRequest,
        stop: tf.Variable | None = None,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self._run, self._total = run, total_steps
        self._every, self._keep = every, keep
        self._log, self._validate, self._writes = log, validate, writes
        self._request, self._stop = request, stop
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
        due = bool(self._every) and step % self._every == 0
        if self.stopped or due:
            self.save(step, due)

    def save(self, step: int, due: bool = True) -> None:
        """Saves a checkpoint now, if there was none of this step.

        Args:
            step: The last step.
            due: Whether a run that nobody stops saves here too: then it is recorded.
        """
        if step == self._saved or not self._writes:
            return
        self._log_masks(step, due)
        self._run.sync_metrics()
        loss = self._validate.at(step) if self._validate else None
        save_checkpoint(self.model, self._run.checkpoint_folder, step, self._keep, loss)
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
