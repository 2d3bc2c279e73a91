"""Sparse (or dense) pre-training on token shards, into a run folder."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any

import tensorflow as tf

from spdf_keras.config import Config, to_toml
from spdf_keras.data.shards import Shards
from spdf_keras.data.tokenizer import Tokenizer
from spdf_keras.errors import InputError, StoppedError, TrainingError
from spdf_keras.flops import training_flops
from spdf_keras.model.build import build_gpt, compile_for_pretraining
from spdf_keras.model.gpt import GPT
from spdf_keras.training.callbacks import Report, SaveCheckpoints, StepLog, Validate
from spdf_keras.training.checkpoint import (
    DamagedError,
    checkpoint_step,
    restore_checkpoint,
)
from spdf_keras.training.cluster import Cluster, single_device
from spdf_keras.training.run import Run
from spdf_keras.training.stopping import StopRequest, stop_requests
from spdf_keras.training.work import StepWork

# Enough to see a trend, little beside the steps between two validations.
_VALIDATION_BATCHES = 50

# What TensorFlow says in a worker when another one is no longer there.
_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def pretrain(
    config: Config,
    shards: Shards,
    folder: str | Path,
    report: Report | None = None,
    cluster: Cluster | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Trains the model of `config` with the recipe of appendix A.1.

    Where the folder holds a checkpoint of the same settings, training goes on after
    the newest one that is whole, to the same bytes as if it had not stopped: the
    data's order is a function of the step. SIGTERM and SIGINT stop it after a step,
    with a checkpoint.

    Args:
        config: `model`, `sparsity` and `train` are used.
        shards: The corpus.
        folder: The run folder.
        report: Gets a record per step, for a progress display.
        cluster: The devices; the default device if None.
        tell: Gets sentences: a checkpoint is passed over as damaged, or which
            products skip zeros.

    Returns:
        `steps`, `tokens`, `loss` (of the last step), `validation_loss` (None
        without validation data) and `flops`, those of forward and backward
        passes with the zeros skipped.

    Raises:
        InputError: If the corpus does not fit the model, or the folder holds
            another run.
        TrainingError: If the loss or the gradient is not finite, or a worker has
            gone; the last checkpoint is kept.
        StoppedError: If a signal came.

    Reference:
        Appendix A.1 of [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464).
    """
    cluster = cluster or single_device()
    tokenizer, length = shards.tokenizer(), shards.context_length
    _check_corpus(config, shards, tokenizer)
    _check_parts(config, cluster)
    with stop_requests() as request, cluster.strategy.scope():
        run, model, start = _start(
            config, shards, tokenizer, Path(folder), cluster, tell or (lambda _: None)
        )
        _train(config, shards, run, model, start, report, cluster, request)
    total = config.train.total_steps(config.model, length)
    losses = {key: r[key] for r in run.metrics() for key in r if "loss" in key}
    sequences = total * config.train.batch_size
    per_sequence = training_flops(config.model, length, config.sparsity.sparsity)
    result = {
        "steps": total,
        "tokens": sequences * length,
        "loss": losses.get("loss"),
        "validation_loss": losses.get("validation_loss"),
        "flops": sequences * per_sequence,
        "tokenizer": tokenizer.fingerprint,
    }
    return run.finish(result) if cluster.is_chief else result


def _train(
    config: Config,
    shards: Shards,
    run: Run,
    model: GPT,
    start: int,
    report: Report | None,
    cluster: Cluster,
    request: StopRequest,
) -> None:
    train, length = config.train, shards.context_length
    total = train.total_steps(config.model, length)
    if start >= total:
        return
    devices = cluster.num_replicas if _has_gpu() else cluster.num_workers
    work = StepWork.of(config, length, devices)
    log = StepLog(run, total, report, work, writes=cluster.is_chief)
    size, steps = shards.validation_batches(
        train.batch_size // train.micro_batches,
        _VALIDATION_BATCHES,
        cluster.num_replicas,
    )
    validate = None
    if steps:
        held_out = cluster.dataset(partial(shards.validation, size, steps))
        validate = Validate(held_out, steps, train.validate_every, log)
    save = SaveCheckpoints(
        run,
        total,
        train.checkpoint_every,
        train.keep_checkpoints,
        log,
        validate,
        request,
        model.watch_stop() if cluster.num_workers > 1 else None,
        writes=cluster.is_chief,
    )
    batches = partial(shards.batches, train.batch_size, train.seed, start, total)
    try:
        model.fit(
            cluster.dataset(batches),
            steps_per_epoch=total - start,
            verbose=0,
            callbacks=[log, *([validate] if validate else []), save],
        )
        if save.stopped:
            step = int(model.optimizer.iterations.numpy())
            raise StoppedError(
                f"stopped after step {step} of {total}, with a checkpoint; the same "
                "command goes on from there.",
                request.signal or SIGTERM,
            )
        if validate:
            validate.measure(total)
        save.save(total)
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


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def _check_parts(config: Config, cluster: Cluster) -> None:
    parts = cluster.num_replicas * config.train.micro_batches
    if config.train.batch_size % parts:
        raise InputError(
            f"`train.batch_size` must be a multiple of {cluster.num_replicas} replicas "
            f"times train.micro_batches={config.train.micro_batches}. Received: "
            f"train.batch_size={config.train.batch_size}."
        )


def _check_corpus(config: Config, shards: Shards, tokenizer: Tokenizer) -> None:
    tokens, rows = tokenizer.vocabulary_size, config.model.vocabulary_size
    if tokens > rows:
        raise InputError(
            f"The tokenizer has {tokens} tokens, but the model has only "
            f"vocabulary_size={rows}. Raise `model.vocabulary_size`, or prepare the "
            "corpus with a smaller tokenizer."
        )
    length, context = shards.context_length, config.model.max_sequence_length
    if length > context:
        raise InputError(
            f"The shards hold sequences of {length} tokens, longer than the model's "
            f"max_sequence_length={context}. Prepare the corpus with "
            f"`--context-length {context}`, or raise `model.max_sequence_length`."
        )


def _start(
    config: Config,
    shards: Shards,
    tokenizer: Tokenizer,
    folder: Path,
    cluster: Cluster,
    tell: Callable[[str], None],
) -> tuple[Run, GPT, int]:
    run = Run(folder)
    checkpoints = run.checkpoints()
    if checkpoints:
        _check_same(config, shards, tokenizer, Run.open(folder))
    model = build_gpt(
        config.model,
        config.sparsity.sparsity,
        mask_seed=config.sparsity.seed,
        train=config.train,
    )
    compile_for_pretraining(model, config.train, shards.context_length)
    start = _restore(model, checkpoints, tell) if checkpoints else 0
    skips = config.train.compute != "dense"
    if checkpoints and skips:
        # To the same bytes: measured again, another choice might win.
        model.sparse_kernels = run.origin()["sparse_kernels"]
    if skips:
        tell(model.describe_products())
    cluster.agree(
        {
            "settings": to_toml(config),
            "corpus": shards.fingerprint,
            "checkpoint (step)": str(start),
        }
    )
    if not cluster.is_chief:
        return run, model, start
    if checkpoints:
        run.forget_after(start)
    else:
        corpus = {
            "folder": os.path.basename(os.path.abspath(shards.folder)),
            "sequences": shards.num_sequences(),
            "fingerprint": shards.fingerprint,
        }
        origin: dict[str, Any] = {"kind": "pretrain", "corpus": corpus}
        if skips:
            origin["sparse_kernels"] = model.sparse_kernels
        run = Run.create(folder, config, tokenizer, origin)
    return run, model, start


def _restore(
    model: GPT, checkpoints: Sequence[Path], tell: Callable[[str], None]
) -> int:
    """Restores the newest checkpoint that is whole, and returns its step."""
    for older, checkpoint in reversed(list(enumerate(checkpoints))):
        try:
            return restore_checkpoint(model, checkpoint, optimizer=True)
        except DamagedError as error:
            if not older:
                raise
            tell(f"{error} Going on from '{checkpoints[older - 1].name}'.")
    raise AssertionError("no checkpoint")


def _check_same(config: Config, shards: Shards, tokenizer: Tokenizer, run: Run) -> None:
    before, now = dataclasses.asdict(run.config()), dataclasses.asdict(config)
    for section in ("model", "sparsity", "train"):
        for key, value in now[section].items():
            if before[section][key] != value:
                raise InputError(
                    f"The run '{run.folder}' was started with {section}.{key}="
                    f"{before[section][key]}. Received: {section}.{key}={value}. "
                    "Give the same settings to go on with it, or another folder."
                )
    if run.tokenizer().fingerprint != tokenizer.fingerprint:
        raise InputError(
            f"The run '{run.folder}' was started with another tokenizer than that of "
            f"'{shards.folder}'. Give the same corpus, or another folder."
        )
    corpus = run.origin().get("corpus", {})
    if corpus.get("fingerprint", shards.fingerprint) != shards.fingerprint:
        raise InputError(
            f"The run '{run.folder}' was started with the corpus '{corpus['folder']}' "
            f"of {corpus['sequences']} sequences. Received: other tokens, in "
            f"'{shards.folder}', of {shards.num_sequences()} sequences. Give the same "
            "corpus, or another folder."
        )
