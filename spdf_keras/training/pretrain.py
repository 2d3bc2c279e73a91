"""Sparse (or dense) pre-training on token shards, into a run folder."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from spdf_keras.config import Config, to_toml
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.flops import training_flops
from spdf_keras.model.build import compile_for_pretraining, configured_gpt
from spdf_keras.model.gpt import GPT
from spdf_keras.model.sparsity_plan import SparsityPlan
from spdf_keras.optimization.recipes import pretraining_schedule
from spdf_keras.training.callbacks import Report
from spdf_keras.training.checkpoint import checkpoint_step, read_checksums
from spdf_keras.training.cluster import Cluster, single_device
from spdf_keras.training.loop import Training, check_parts, restore_newest, train
from spdf_keras.training.resume import (
    check_kind,
    check_settings,
    check_tokenizer,
    describe_changes,
)
from spdf_keras.training.run import Run
from spdf_keras.training.stopping import stop_requests

# Enough sequences to see a trend; few beside those of the steps between validations.
_VALIDATION_BATCHES = 50

Tell = Callable[[str], None]


def pretrain(
    config: Config,
    shards: Shards,
    folder: str | Path,
    *,
    report: Report | None = None,
    cluster: Cluster | None = None,
    tell: Tell | None = None,
    base: Run | None = None,
) -> dict[str, Any]:
    """Trains the model of `config` with the recipe of appendix A.1.

    If the folder holds a checkpoint of the same settings, training goes on after the
    newest intact one and ends with the same bytes as without the stop: the order of
    the data is a function of the step. SIGTERM and SIGINT stop it after a step, with a
    checkpoint.

    More `train.tokens` extend a run, a finished one too. Settings that do not change
    the result of a step may differ when a run goes on: `checkpoint_every`,
    `keep_checkpoints`, `validate_every`, `micro_batches`, `recompute`.

    Args:
        config: `model`, `sparsity` and `train` are used.
        shards: The corpus.
        folder: The run folder.
        report: Called with a record per step, for a progress display.
        cluster: The devices; the default device if None.
        tell: Called with sentences for the user: a damaged checkpoint is passed over,
            a setting has changed, or which products skip zeros.
        base: A run whose weights are the initial ones, where the masks keep them; with
            the method `one_shot` or `gmp` its smallest weights are pruned.

    Returns:
        `steps`, `tokens`, `loss` (of the last step), `validation_loss` (None without
        validation data), `flops` (operations of the forward and backward passes with
        the zeros skipped) and `average_sparsity` (over all steps).

    Raises:
        InputError: If the corpus or `base` does not fit the model, the folder holds
            something else or a run of other settings, or another process writes into
            it.
        TrainingError: If the loss or the gradient is not finite, or a worker is
            gone; the last checkpoint is kept.
        StoppedError: If a signal came.

    Reference:
        Appendix A.1 of [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464).
    """
    cluster, tell = cluster or single_device(), tell or (lambda _: None)
    tokenizer, length = shards.tokenizer(), shards.context_length
    _check_corpus(config, shards, tokenizer)
    if base is not None:
        _check_base(base, config, tokenizer, shards)
    training = _training(config, shards, cluster)
    check_parts(training, cluster)
    run, total = Run(Path(folder)), training.total_steps
    writing = run.writing() if cluster.is_chief else nullcontext()
    with stop_requests() as request, writing, cluster.strategy.scope():
        model, start = _start(training, shards, tokenizer, run, cluster, tell, base)
        if start >= total:
            tell(f"The run '{folder}' has all its {total:,} steps: nothing is left.")
        train(training, run, model, start, cluster, request, report)
        losses = {key: r[key] for r in run.metrics() for key in r if "loss" in key}
        sequences = total * config.train.batch_size
        plan = SparsityPlan(config.model, config.sparsity, total)
        per_sequence = training_flops(config.model, length, plan.average)
        result = {
            "steps": total,
            "tokens": sequences * length,
            "loss": losses.get("loss"),
            "validation_loss": losses.get("validation_loss"),
            "flops": sequences * per_sequence,
            "average_sparsity": plan.average,
            "tokenizer": tokenizer.fingerprint,
        }
        return run.finish(result) if cluster.is_chief else result


def _training(config: Config, shards: Shards, cluster: Cluster) -> Training:
    settings, length = config.train, shards.context_length
    total = settings.total_steps(config.model, length)
    size, held_out_steps = shards.validation_batches(
        settings.batch_size // settings.micro_batches,
        _VALIDATION_BATCHES,
        cluster.num_replicas,
    )
    held_out = partial(shards.validation, size, held_out_steps)
    return Training(
        section="train",
        config=config,
        total_steps=total,
        lengths=[length] * total,
        batches=lambda start: partial(
            shards.batches, settings.batch_size, settings.seed, start, total
        ),
        held_out=held_out if held_out_steps else None,
        held_out_steps=held_out_steps,
        validate_every=settings.validate_every,
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
    training: Training,
    shards: Shards,
    tokenizer: Tokenizer,
    run: Run,
    cluster: Cluster,
    tell: Tell,
    base: Run | None,
) -> tuple[GPT, int]:
    """Makes or restores model and run; returns the model and the completed steps."""
    config, checkpoints = training.config, run.checkpoints()
    initial = {} if base is None else _initial(base)
    if checkpoints:
        _check_same(training, shards, tokenizer, run)
        _check_initial(run, initial)
    model = configured_gpt(config)
    skips = config.train.compute != "dense"
    if checkpoints and skips:
        # New timings might choose other kernels, and the bytes would differ.
        model.sparse_kernels = run.origin()["sparse_kernels"]
    compile_for_pretraining(model, config.train, shards.context_length)
    start = 0
    if base is not None and not checkpoints:
        model.take_weights(base.load_model())
    if checkpoints:
        start = checkpoint_step(restore_newest(model, checkpoints, tell))
    if skips:
        tell(model.describe_products())
    cluster.agree(
        {
            "settings": to_toml(config),
            "corpus": shards.fingerprint,
            "base": str(initial.get("weights")),
            "checkpoint (step)": str(start),
        }
    )
    if not cluster.is_chief:
        return model, start
    if checkpoints:
        _go_on(training, shards, run, start, tell)
        return model, start
    corpus = {
        "folder": os.path.basename(os.path.abspath(shards.folder)),
        "sequences": shards.num_sequences(),
        "fingerprint": shards.fingerprint,
    }
    origin: dict[str, Any] = {
        "kind": "pretrain",
        "corpus": corpus,
        "total_steps": training.total_steps,
    }
    if skips:
        origin["sparse_kernels"] = model.sparse_kernels
    if initial:
        origin["initial"] = initial
    run.start(config, tokenizer, origin)
    return model, start


def _initial(base: Run) -> dict[str, Any]:
    """Returns what a run records of the run whose weights it starts from."""
    checkpoint = base.checkpoint()
    return {
        "folder": os.path.basename(os.path.abspath(base.folder)),
        "step": checkpoint_step(checkpoint),
        "weights": read_checksums(checkpoint).get("weights.safetensors"),
    }


def _check_initial(run: Run, initial: dict[str, Any]) -> None:
    before = run.origin().get("initial", {})
    if before.get("weights") != initial.get("weights"):
        was, now = (
            f"the weights of '{i['folder']}' after step {i['step']}"
            if i
            else "weights drawn at random"
            for i in (before, initial)
        )
        raise InputError(
            f"The run '{run.folder}' was started with {was}. Received: {now}. Give the "
            "same to go on with it, or another folder."
        )


def _check_base(
    base: Run, config: Config, tokenizer: Tokenizer, shards: Shards
) -> None:
    if base.config().model != config.model:
        raise InputError(
            f"The run '{base.folder}' must have the sizes of the new model to give it "
            f"its weights. Received: {base.config().model} and {config.model}."
        )
    check_tokenizer(base, tokenizer, shards.folder)


def _go_on(
    training: Training, shards: Shards, run: Run, start: int, tell: Tell
) -> None:
    """Records and tells the changed settings of a run that goes on after `start`."""
    before, origin = run.config(), run.origin()
    length, total = shards.context_length, training.total_steps
    changes = describe_changes(run, training.config)
    old_total = before.train.total_steps(before.model, length)
    if total != old_total:
        changes.append(_describe_schedules(before, training.config, length, start))
    for sentence in changes:
        tell(sentence)
    run.forget_after(start)
    if not changes:
        return
    earlier = origin.get("changes", [])
    origin["changes"] = [*earlier, {"after_step": start, "what": changes}]
    origin["total_steps"] = total
    if start < total:
        run.reopen(origin)
    run.write_config(training.config)


def _describe_schedules(before: Config, now: Config, length: int, step: int) -> str:
    """Returns a sentence that compares a run's learning rates before and after."""
    old, new = (
        pretraining_schedule(config.model, config.train, length)
        for config in (before, now)
    )
    end = new.total_steps
    warmup = ""
    if new.warmup_steps != old.warmup_steps:
        warmup = f", after a warm-up of {new.warmup_steps:,},"
    masks = ""
    if now.sparsity.sparsity and now.sparsity.method != "static":
        masks = " The updates of the masks stretch over them too."
    return (
        f"The run goes on from step {step:,} to step {end:,}; it was to end at "
        f"{old.total_steps:,}. The cosine of the learning rate{warmup} now stretches "
        f"over {end:,} steps: step {step + 1:,} has {float(new(step)):.3g} (by the "
        f"old schedule {float(old(step)):.3g}), and the last has "
        f"{float(new(end - 1)):.3g}.{masks} The steps before followed the old "
        "schedule, so the result is not that of a run which was that long from its "
        "start."
    )


def _check_same(
    training: Training, shards: Shards, tokenizer: Tokenizer, run: Run
) -> None:
    check_kind(run, "pretrain")
    check_settings(run, training.config, "train", ignore=("tokens",))
    before, length = run.config(), shards.context_length
    old_total = before.train.total_steps(before.model, length)
    if training.total_steps < old_total:
        raise InputError(
            f"The run '{run.folder}' was started with train.tokens="
            f"{before.train.tokens}, which is {old_total} steps. Received: "
            f"train.tokens={training.config.train.tokens}, {training.total_steps} "
            "steps. A run can be extended but not shortened: give as many or more, or "
            "another folder."
        )
    check_tokenizer(run, tokenizer, shards.folder)
    corpus = run.origin().get("corpus", {})
    if corpus.get("fingerprint", shards.fingerprint) != shards.fingerprint:
        raise InputError(
            f"The run '{run.folder}' was started with the corpus '{corpus['folder']}' "
            f"of {corpus['sequences']} sequences. Received: other tokens, in "
            f"'{shards.folder}', of {shards.num_sequences()} sequences. Give the same "
            "corpus, or another folder."
        )
