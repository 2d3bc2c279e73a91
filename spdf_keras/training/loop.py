"""The loop that pre-training and fine-tuning share: steps, records, checkpoints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

import tensorflow as tf

from spdf_keras.config import Config, StepConfig
from spdf_keras.errors import InputError, StoppedError, TrainingError
from spdf_keras.model.gpt import GPT
from spdf_keras.training.callbacks import Report, StepLog, Validate
from spdf_keras.training.checkpoint import DamagedError, checkpoint_step
from spdf_keras.training.cluster import Cluster
from spdf_keras.training.restoring import restore_checkpoint
from spdf_keras.training.run import Run
from spdf_keras.training.saving import BestEpoch, SaveCheckpoints
from spdf_keras.training.stopping import StopRequest
from spdf_keras.training.work import StepWork

# TensorFlow's errors in a worker when another worker is gone.
_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)

# Makes the share of one worker from the number of workers, the worker's number and
# its replicas; see `Cluster.dataset`.
MakeDataset = Callable[[int, int, int], tf.data.Dataset]


@dataclass(frozen=True)
class Training:
    """A training as a sequence of steps, each a function of its number alone.

    Attributes:
        section: The table of its settings: `train` or `finetune`.
        config: All settings of the run.
        total_steps: Number of steps from its beginning to its end.
        lengths: Tokens per sequence of each step, padding included.
        batches: Makes the batches from a step (counted from 0) to the end.
        held_out: Makes the validation batches; None without any.
        held_out_steps: Number of validation batches.
        validate_every: Steps between validations; 0 validates only at the end.
        epoch_steps: Steps of an epoch if the best epoch counts, else 0.
    """

    section: str
    config: Config
    total_steps: int
    lengths: Sequence[int]
    batches: Callable[[int], MakeDataset]
    held_out: MakeDataset | None
    held_out_steps: int
    validate_every: int
    epoch_steps: int = 0

    @property
    def settings(self) -> StepConfig:
        """The settings of its steps."""
        settings: StepConfig = getattr(self.config, self.section)
        return settings


def train(
    training: Training,
    run: Run,
    model: GPT,
    start: int,
    cluster: Cluster,
    request: StopRequest,
    report: Report | None = None,
    progress: dict[str, Any] | None = None,
) -> BestEpoch | None:
    """Does the remaining steps of a training.

    Args:
        training: The training.
        run: The run that gets records and checkpoints.
        model: The compiled model, with the state after step `start`.
        start: Number of completed steps.
        cluster: The devices.
        request: Says whether to stop after a step.
        report: Called with a record per step.
        progress: The state of `BestEpoch` in the checkpoint of step `start`.

    Returns:
        The best epoch, if epochs count.

    Raises:
        TrainingError: If a number is not finite or a worker is gone.
        StoppedError: If a signal came.
    """
    total, patience = training.total_steps, getattr(training.settings, "patience", 0)
    devices = cluster.num_replicas if _has_gpu() else cluster.num_workers
    batch_size = training.settings.batch_size
    lora = getattr(training.settings, "lora", None)
    work = StepWork(training.config, batch_size, training.lengths, devices, lora)
    log = StepLog(run, total, work, training.section, report, cluster.is_chief)
    validate = best = None
    if training.held_out:
        validate = Validate(
            cluster.dataset(training.held_out),
            training.held_out_steps,
            training.validate_every,
            log,
            is_epoch=training.epoch_steps > 0,
        )
    if training.epoch_steps and validate:
        best = BestEpoch(validate, training.epoch_steps, patience, progress or {})
    if start >= total or (best and best.is_over):
        return best
    save = SaveCheckpoints(
        run,
        total,
        training.settings,
        log,
        validate,
        request,
        best,
        model.watch_stop() if cluster.num_workers > 1 else None,
        writes=cluster.is_chief,
    )
    if model.mask_updates is not None:
        model.mask_updates.listeners.append(log.write)
    try:
        model.fit(
            cluster.dataset(training.batches(start)),
            steps_per_epoch=total - start,
            verbose=0,
            callbacks=[log, *filter(None, (validate, best)), save],
        )
        step = int(model.optimizer.iterations.numpy())
        if save.stopped:
            raise StoppedError(
                f"stopped after step {step} of {total}, with a checkpoint; the same "
                "command goes on from there.",
                request.signal or SIGTERM,
            )
        if model.mask_updates is not None:
            model.mask_updates.finish()
        if validate:
            validate.measure(step)
        save.save(step)
    except _GONE as error:
        if cluster.num_workers == 1:
            raise
        saved = [checkpoint_step(path) for path in run.checkpoints()]
        raise TrainingError(
            f"Worker {cluster.worker} has lost another worker, so the training stops: "
            f"its last checkpoint is {f'of step {saved[-1]}' if saved else 'missing'}. "
            "Start all workers again with the same commands to go on from there. "
            f"({type(error).__name__})"
        ) from error
    return best


def restore_newest(
    model: GPT, checkpoints: Sequence[Path], tell: Callable[[str], None]
) -> Path:
    """Restores the newest checkpoint that is intact, with its optimizer."""
    for older, checkpoint in reversed(list(enumerate(checkpoints))):
        try:
            restore_checkpoint(model, checkpoint, optimizer=True)
        except DamagedError as error:
            if not older:
                raise
            tell(f"{error} Going on from '{checkpoints[older - 1].name}'.")
        else:
            return checkpoint
    raise AssertionError("no checkpoint")


def check_parts(training: Training, cluster: Cluster) -> None:
    """Refuses a batch that replicas and micro-batches cannot share.

    Raises:
        InputError: If its size is no multiple of their product.
    """
    settings, section = training.settings, training.section
    if settings.batch_size % (cluster.num_replicas * settings.micro_batches):
        raise InputError(
            f"`{section}.batch_size` must be a multiple of {cluster.num_replicas} "
            f"replicas times {section}.micro_batches={settings.micro_batches}. "
            f"Received: {section}.batch_size={settings.batch_size}."
        )


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))
