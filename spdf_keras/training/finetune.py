"""Fine-tuning of a pre-trained run on a task: densely, or with its masks."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spdf_keras.config import DecodeConfig, FinetuneConfig, SparsityConfig
from spdf_keras.data.tasks.examples import EncodedPairs
from spdf_keras.data.tasks.task import Example
from spdf_keras.model.gpt import GPT
from spdf_keras.model.loss import NextTokenCrossentropy
from spdf_keras.optimizer import WarmupDecay, adamw
from spdf_keras.sparsity.strip import strip
from spdf_keras.training.callbacks import Report, StepLog
from spdf_keras.training.checkpoint import save_checkpoint
from spdf_keras.training.run import Run


def finetune(
    base: Run,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: FinetuneConfig,
    folder: str | Path,
    report: Report | None = None,
    cut_context: bool = False,
    task: str = "",
    decode: DecodeConfig | None = None,
) -> dict[str, Any]:
    """Strips the masks of a pre-trained run and trains every weight on a task.

    With `settings.keep_masks` they stay, and only the kept weights are trained.

    The learning rate falls linearly to zero over all epochs. After each epoch the
    validation loss is measured; the run keeps the best epoch's weights and stops
    when `patience` epochs have not improved it.

    Args:
        base: The pre-trained run; it is not changed.
        examples: Training examples; each reference is one pair.
        validation: Validation examples.
        settings: The `[finetune]` settings.
        folder: The new run's folder.
        report: Gets a record per step, for a progress display.
        cut_context: Whether an example that is too long loses the end of its
            context; False refuses it.
        task: Name of the task, for the run's record.
        decode: The `[decode]` settings of the new run; those of `base` if None.

    Returns:
        `epochs` that were run, `best_epoch`, its `validation_loss` (in nats per
        target token, with label smoothing as in training), `steps`, and
        `cut_contexts`, the pairs of both splits whose context was cut.

    Raises:
        InputError: If an example is too long, or the folder is in use.

    Reference:
        Appendix A.2 of [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464).
    """
    config, tokenizer = base.config(), base.tokenizer()
    longest = min(settings.sequence_length, config.model.max_sequence_length)
    pairs = EncodedPairs.encode(examples, tokenizer, longest, cut_context)
    held_out = EncodedPairs.encode(validation, tokenizer, longest, cut_context)
    run = Run.create(
        folder,
        dataclasses.replace(
            config,
            sparsity=config.sparsity if settings.keep_masks else SparsityConfig(),
            finetune=settings,
            decode=decode or config.decode,
        ),
        tokenizer,
        _origin(base, settings, task),
    )
    model = base.load_model()
    if not settings.keep_masks:
        model = strip(model)
    total = settings.epochs * pairs.num_batches(settings.batch_size)
    _compile(model, settings, total)
    log = StepLog(run, total, report)
    best, best_epoch, epoch = math.inf, 0, 0
    for epoch in range(1, settings.epochs + 1):
        order = f"{settings.seed}:{epoch}"
        model.fit(pairs.batches(settings.batch_size, order), verbose=0, callbacks=[log])
        step = int(model.optimizer.iterations.numpy())
        batches = held_out.batches(settings.batch_size)
        loss = model.evaluate(batches, verbose=0, return_dict=True)["loss"]
        log.write({"step": step, "epoch": epoch, "validation_loss": float(loss)})
        if loss < best:
            best, best_epoch = float(loss), epoch
            save_checkpoint(model, run.checkpoint_folder, step, keep=1)
        elif epoch - best_epoch >= settings.patience:
            break
    return run.finish(
        {
            "epochs": epoch,
            "best_epoch": best_epoch,
            "validation_loss": best,
            "steps": step,
            "sequences": epoch * len(pairs),
            "cut_contexts": pairs.num_cut + held_out.num_cut,
        }
    )


def _origin(base: Run, settings: FinetuneConfig, task: str) -> dict[str, Any]:
    config, result = base.config(), base.result() or {}
    return {
        "kind": "finetune",
        "task": task,
        "masks": "kept" if settings.keep_masks else "stripped",
        "base": {
            "folder": os.path.basename(os.path.abspath(base.folder)),
            "sparsity": config.sparsity.sparsity,
            "seed": config.train.seed,
            "mask_seed": config.sparsity.seed,
            **{key: result.get(key) for key in ("tokens", "flops", "validation_loss")},
        },
    }


def _compile(model: GPT, settings: FinetuneConfig, total_steps: int) -> None:
    warmup = min(settings.warmup_steps, total_steps // 10)
    rate = settings.learning_rate
    schedule = WarmupDecay(rate, warmup, total_steps, shape="linear")
    model.compile(
        adamw(settings, schedule),
        NextTokenCrossentropy(settings.label_smoothing),
        micro_batches=settings.micro_batches,
        recompute=settings.recompute,
        jit_compile=settings.jit_compile,
    )
