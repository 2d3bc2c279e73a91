"""Fine-tuning of a pre-trained run on a task: densely, or with its masks."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from spdf_keras.config import (
    Config,
    DecodeConfig,
    FinetuneConfig,
    SparsityConfig,
    to_toml,
)
from spdf_keras.data.tasks.examples import EncodedPairs, PairStream
from spdf_keras.data.tasks.task import Example
from spdf_keras.errors import InputError, TrainingError
from spdf_keras.model.build import configured_gpt
from spdf_keras.model.fitting.loss import NextTokenCrossentropy
from spdf_keras.model.gpt import GPT
from spdf_keras.optimization.recipes import finetuning_optimizer
from spdf_keras.sparsity.algorithms.registry import settled
from spdf_keras.sparsity.strip import strip
from spdf_keras.training.callbacks import Report
from spdf_keras.training.checkpoint import (
    checkpoint_step,
    read_checksums,
    read_progress,
)
from spdf_keras.training.cluster import Cluster, single_device
from spdf_keras.training.loop import Training, check_parts, restore_newest, train
from spdf_keras.training.resume import (
    check_kind,
    check_settings,
    check_tokenizer,
    describe_changes,
)
from spdf_keras.training.run import Run
from spdf_keras.training.saving import BestEpoch
from spdf_keras.training.stopping import stop_requests

Tell = Callable[[str], None]


def finetune(
    base: Run,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: FinetuneConfig,
    folder: str | Path,
    *,
    report: Report | None = None,
    cut_context: bool = False,
    task: str = "",
    decode: DecodeConfig | None = None,
    cluster: Cluster | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Strips the masks of a pre-trained run and trains every weight on a task.

    With `settings.keep_masks` the masks stay and only the kept weights are trained.

    The learning rate falls linearly to zero over all epochs. After each epoch the
    validation loss is measured. Training stops when `patience` epochs have not
    improved it, and the run keeps the weights of the best epoch.

    If the folder holds a checkpoint of the same settings, data and base, training goes
    on after it and ends with the same bytes as without the stop, as `pretrain` does.

    Args:
        base: The pre-trained run; it is not changed.
        examples: Training examples; each reference is one pair.
        validation: Validation examples.
        settings: The `[finetune]` settings.
        folder: The folder of the new run.
        report: Called with a record per step, for a progress display.
        cut_context: Whether the context of a too long example is cut at its end;
            False refuses such an example.
        task: Name of the task, for the run's record.
        decode: The `[decode]` settings of the new run; those of `base` if None.
        cluster: The devices; the default device if None.
        tell: Called with sentences for the user: a damaged checkpoint is passed over,
            or a setting has changed.

    Returns:
        `epochs` (completed), `best_epoch`, its `validation_loss` (in nats per target
        token, with label smoothing as in training), `steps`, and `cut_contexts` (the
        number of pairs in both splits whose context was cut).

    Raises:
        InputError: If an example is too long, the folder holds something else or a
            run of other settings, or another process writes into it.
        TrainingError: If a loss or gradient is not finite, or a worker is gone.
        StoppedError: If a signal came; the last checkpoint is of that step.

    Reference:
        Appendix A.2 of [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464).
    """
    cluster, tell = cluster or single_device(), tell or (lambda _: None)
    config, tokenizer = base.config(), base.tokenizer()
    longest = min(settings.sequence_length, config.model.max_sequence_length)
    pairs, held_out = (
        EncodedPairs.encode(split, tokenizer, longest, cut_context, name)
        for split, name in (
            (examples, "training split"),
            (validation, "validation split"),
        )
    )
    config = dataclasses.replace(
        config,
        sparsity=settled(config.sparsity) if settings.keep_masks else SparsityConfig(),
        finetune=settings,
        decode=decode or config.decode,
    )
    training = _training(config, pairs, held_out)
    check_parts(training, cluster)
    run = Run(Path(folder))
    writing = run.writing() if cluster.is_chief else nullcontext()
    with stop_requests() as request, writing, cluster.strategy.scope():
        origin = _origin(base, settings, task, pairs, held_out, training.total_steps)
        result = run.result()
        if result is not None or run.checkpoints():
            _check_same(run, config, origin, base)
        if result is not None:
            tell(f"The run '{folder}' is finished: nothing is left to do.")
        if result is None:
            model, start, progress = _start(training, base, run, origin, cluster, tell)
            best = train(
                training, run, model, start, cluster, request, report, progress
            )
            assert best is not None
            result = _result(run, training, best, len(pairs))
            result["cut_contexts"] = pairs.num_cut + held_out.num_cut
            if cluster.is_chief:
                run.finish(result)
        if cluster.is_chief and run.checkpoints():
            run.remove_checkpoints(keep=run.checkpoint())
        return result


def _result(
    run: Run, training: Training, best: BestEpoch, num_pairs: int
) -> dict[str, Any]:
    if not math.isfinite(best.loss):
        raise TrainingError(
            f"The validation loss of '{run.folder}' is not finite after any epoch, so "
            "there is no best one. Look at the validation data, or fine-tune with a "
            "lower finetune.learning_rate in another folder."
        )
    return {
        "epochs": best.epoch,
        "best_epoch": best.best_epoch,
        "validation_loss": best.loss,
        "steps": best.epoch * training.epoch_steps,
        "sequences": best.epoch * num_pairs,
    }


def _training(config: Config, pairs: EncodedPairs, held_out: EncodedPairs) -> Training:
    settings = config.finetune
    size, epoch_steps = settings.batch_size, pairs.num_batches(settings.batch_size)
    total = settings.epochs * epoch_steps
    stream = PairStream(pairs, size, lambda epoch: f"{settings.seed}:{epoch}")
    held_out_steps = held_out.num_batches(size)
    return Training(
        section="finetune",
        config=config,
        total_steps=total,
        lengths=stream.widths(total),
        batches=lambda start: partial(stream.batches, start, total),
        held_out=partial(PairStream(held_out, size).batches, 0, held_out_steps),
        held_out_steps=held_out_steps,
        validate_every=epoch_steps,
        epoch_steps=epoch_steps,
    )


def _start(
    training: Training,
    base: Run,
    run: Run,
    origin: dict[str, Any],
    cluster: Cluster,
    tell: Tell,
) -> tuple[GPT, int, dict[str, Any]]:
    """Makes or restores the model and the run.

    Returns:
        The model, the completed steps, and the progress of the best epoch.
    """
    config, checkpoints = training.config, run.checkpoints()
    start, progress = 0, {}
    skips = config.train.compute != "dense" and config.finetune.keep_masks
    if checkpoints:
        model = configured_gpt(config)
        if skips:
            # New timings might choose other kernels, and the bytes would differ.
            model.sparse_kernels = run.origin()["sparse_kernels"]
    else:
        model = base.load_model()
        if skips:
            origin = {**origin, "sparse_kernels": model.sparse_kernels}
        if not config.finetune.keep_masks:
            model = strip(model)
    _compile(model, config.finetune, training.total_steps)
    if checkpoints:
        newest = restore_newest(model, checkpoints, tell)
        start, progress = checkpoint_step(newest), read_progress(newest)
    cluster.agree(
        {
            "settings": to_toml(config),
            "data": str(origin["data"]),
            "base": str(origin["base"]["weights"]),
            "checkpoint (step)": str(start),
        }
    )
    if not cluster.is_chief:
        return model, start, progress
    if checkpoints:
        for sentence in describe_changes(run, config):
            tell(sentence)
        run.forget_after(start)
        run.write_config(config)
    else:
        run.start(config, base.tokenizer(), origin)
    return model, start, progress


def _check_same(run: Run, config: Config, origin: dict[str, Any], base: Run) -> None:
    check_kind(run, "finetune")
    before = run.origin()
    known = before.get("base", {}).get("weights")
    if known is not None and known != origin["base"]["weights"]:
        raise InputError(
            f"The run '{run.folder}' was started from '{before['base']['folder']}' as "
            f"it was after step {before['base']['step']}. Received: other weights, in "
            f"'{base.folder}'. Give the same base to go on with it, or another folder."
        )
    check_settings(run, config, "finetune")
    check_tokenizer(run, base.tokenizer(), base.folder)
    for split, fingerprint in origin["data"].items():
        if before.get("data", {}).get(split, fingerprint) != fingerprint:
            raise InputError(
                f"The run '{run.folder}' was started with other {split} examples. Give "
                "the same data to go on with it, or another folder."
            )


def _origin(
    base: Run,
    settings: FinetuneConfig,
    task: str,
    pairs: EncodedPairs,
    held_out: EncodedPairs,
    total_steps: int,
) -> dict[str, Any]:
    config, result = base.config(), base.result() or {}
    checkpoint = base.checkpoint()
    return {
        "kind": "finetune",
        "task": task,
        "masks": "kept" if settings.keep_masks else "stripped",
        "base": {
            "folder": os.path.basename(os.path.abspath(base.folder)),
            "finished": bool(result),
            "step": checkpoint_step(checkpoint),
            "weights": read_checksums(checkpoint).get("weights.safetensors"),
            "sparsity": config.sparsity.sparsity,
            "method": config.sparsity.method,
            "seed": config.train.seed,
            "mask_seed": config.sparsity.seed,
            **{key: result.get(key) for key in ("tokens", "flops", "validation_loss")},
        },
        "data": {"train": pairs.fingerprint, "validation": held_out.fingerprint},
        "total_steps": total_steps,
    }


def _compile(model: GPT, settings: FinetuneConfig, total_steps: int) -> None:
    model.compile(
        finetuning_optimizer(settings, total_steps),
        NextTokenCrossentropy(settings.label_smoothing),
        micro_batches=settings.micro_batches,
        recompute=settings.recompute,
        jit_compile=settings.jit_compile,
    )
