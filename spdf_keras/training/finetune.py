"""Dense fine-tuning of a pre-trained run on a task."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spdf_keras.config import FinetuneConfig, SparsityConfig
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
) -> dict[str, Any]:
    """Strips the masks of a pre-trained run and trains every weight on a task.

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
        dataclasses.replace(config, sparsity=SparsityConfig(), finetune=settings),
        tokenizer,
    )
    model = strip(base.load_model())
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
    return {
        "epochs": epoch,
        "best_epoch": best_epoch,
        "validation_loss": best,
        "steps": step,
        "cut_contexts": pairs.num_cut + held_out.num_cut,
    }


def _compile(model: GPT, settings: FinetuneConfig, total_steps: int) -> None:
    warmup = min(settings.warmup_steps, total_steps // 10)
    rate = settings.learning_rate
    schedule = WarmupDecay(rate, warmup, total_steps, shape="linear")
    model.compile(
        adamw(settings, schedule),
        NextTokenCrossentropy(settings.label_smoothing),
        micro_batches=settings.micro_batches,
        jit_compile=settings.jit_compile,
    )
