"""Sparse (or dense) pre-training on token shards, into a run folder."""

import dataclasses
from pathlib import Path
from typing import Any

from spdf_keras.config import Config
from spdf_keras.data.shards import Shards
from spdf_keras.data.tokenizer import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.flops import training_flops
from spdf_keras.model.build import build_gpt, compile_for_pretraining
from spdf_keras.model.gpt import GPT
from spdf_keras.training.callbacks import Report, SaveCheckpoints, StepLog, Validate
from spdf_keras.training.checkpoint import restore_checkpoint, save_checkpoint
from spdf_keras.training.run import Run

# Enough to see a trend, little beside the steps between two validations.
_VALIDATION_BATCHES = 50


def pretrain(
    config: Config, shards: Shards, folder: str | Path, report: Report | None = None
) -> dict[str, Any]:
    """Trains the model of `config` with the recipe of appendix A.1.

    Where the folder holds a checkpoint of the same settings, training goes on
    after it: the data's order is a function of the step.

    Args:
        config: `model`, `sparsity` and `train` are used.
        shards: The corpus.
        folder: The run folder.
        report: Gets a record per step, for a progress display.

    Returns:
        `steps`, `tokens`, `loss` (of the last step), `validation_loss` (None
        without validation data) and `flops`, those of forward and backward
        passes with the zeros skipped.

    Raises:
        InputError: If the corpus does not fit the model, or the folder holds
            another run.

    Reference:
        Appendix A.1 of [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464).
    """
    tokenizer, length = shards.tokenizer(), shards.context_length
    _check_corpus(config, shards, tokenizer)
    total = config.train.total_steps(config.model, length)
    run, model, start = _start(config, shards, tokenizer, Path(folder))
    log = StepLog(run, total, report)
    batch_size = config.train.batch_size // config.train.micro_batches
    validate = None
    if shards.num_sequences("validation"):
        data = shards.validation(batch_size, _VALIDATION_BATCHES)
        validate = Validate(data, config.train.validate_every, log)
    if start < total:
        save = SaveCheckpoints(
            run.checkpoint_folder,
            config.train.checkpoint_every,
            config.train.keep_checkpoints,
        )
        model.fit(
            shards.batches(config.train.batch_size, config.train.seed, start, total),
            verbose=0,
            callbacks=[log, *([validate] if validate else []), save],
        )
        if validate:
            validate.measure(total)
        save_checkpoint(
            model, run.checkpoint_folder, total, config.train.keep_checkpoints
        )
    losses = {key: r[key] for r in run.metrics() for key in r if "loss" in key}
    sequences = total * config.train.batch_size
    per_sequence = training_flops(config.model, length, config.sparsity.sparsity)
    return run.finish(
        {
            "steps": total,
            "tokens": sequences * length,
            "loss": losses.get("loss"),
            "validation_loss": losses.get("validation_loss"),
            "flops": sequences * per_sequence,
            "tokenizer": tokenizer.fingerprint,
        }
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
    config: Config, shards: Shards, tokenizer: Tokenizer, folder: Path
) -> tuple[Run, GPT, int]:
    run = Run(folder)
    resuming = bool(run.checkpoints())
    if resuming:
        _check_same(config, shards, tokenizer, Run.open(folder))
    else:
        run = Run.create(folder, config, tokenizer, {"kind": "pretrain"})
    model = build_gpt(
        config.model,
        config.sparsity.sparsity,
        mask_seed=config.sparsity.seed,
        train=config.train,
    )
    compile_for_pretraining(model, config.train, shards.context_length)
    start = 0
    if resuming:
        start = restore_checkpoint(model, run.checkpoints()[-1], optimizer=True)
        run.forget_after(start)
    return run, model, start


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
