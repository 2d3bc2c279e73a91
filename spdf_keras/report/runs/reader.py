"""Reads the record of a run from its folder.

It loads no model and needs no TensorFlow. A damaged file is an error, because a table
that leaves its content out would mislead.
"""

import math
from dataclasses import replace
from pathlib import Path

from spdf_keras.config import Config
from spdf_keras.errors import InputError
from spdf_keras.report.runs.fields import Fields, hide_paths, read_json
from spdf_keras.report.runs.records import (
    Conditions,
    Curve,
    Evaluation,
    Origin,
    RunRecord,
    Sample,
    planned_tokens,
)
from spdf_keras.training.checkpoint import checkpoint_step
from spdf_keras.training.run import Run

# What the figures of a report show by step, as the records of a run call it.
_CURVES = (
    *("loss", "validation_loss", "mask_density", "mask_turnover"),
    *("seconds", "exaflops"),
)


def read_run(folder: Path, name: str) -> RunRecord:
    """Reads a run folder.

    Args:
        folder: The folder.
        name: The name of the run in the report.

    Raises:
        InputError: If a file of the run cannot be read; the message names it.
    """
    run = Run(folder)
    try:
        config = run.config()
    except InputError as error:
        raise InputError(
            f"The run '{folder}' cannot be read: {error} Mend its config.toml, or "
            "leave the run out."
        ) from error
    recorded, result = (
        Fields(read_json(file) if file.is_file() else {}, file)
        for file in (folder / "provenance.json", folder / "result.json")
    )
    curves, has_epochs = _curves(run)
    training, validation = curves["loss"], curves["validation_loss"]
    exaflops = curves["exaflops"].last
    kind = recorded.text("kind") or ("finetune" if has_epochs else "pretrain")
    checkpoint = run.checkpoint() if run.checkpoints() else None
    steps = max(
        checkpoint_step(checkpoint) if checkpoint else 0,
        *(curve.steps[-1] if curve.steps else 0 for curve in (training, validation)),
    )
    settings = config.train if kind == "pretrain" else config.finetune
    sequences = int(result.number("sequences") or steps * settings.batch_size)
    length = min(config.finetune.sequence_length, config.model.max_sequence_length)
    if kind == "pretrain":
        tokens = result.number("tokens")
        length = (
            round(tokens / sequences)
            if tokens and sequences
            else _pretraining_length(config, steps)
        )
    base = recorded.fields("base")
    record = RunRecord(
        folder=folder,
        name=name,
        kind=kind,
        config=config,
        finished=bool(result.values),
        origin=Origin(),
        task=recorded.text("task"),
        masks=recorded.text("masks"),
        base=hide_paths(base.text("folder")),
        steps=steps,
        sequences=sequences,
        training=training,
        validation=validation,
        mask_density=curves["mask_density"],
        mask_turnover=curves["mask_turnover"],
        seconds=sum(curves["seconds"].losses),
        step_flops=exaflops * 1e18 if exaflops is not None else None,
        checkpoint=checkpoint,
        evaluations=_evaluations(folder),
        conditions=recorded.conditions(Conditions),
        started=recorded.text("started"),
        length=length,
        planned_steps=_whole(recorded.number("total_steps")),
    )
    if kind == "pretrain":
        origin = Origin(
            sparsity=config.sparsity.sparsity,
            method=config.sparsity.method,
            seed=config.train.seed,
            mask_seed=config.sparsity.seed,
            tokens=record.sequences * length,
            flops=record.total_flops,
            validation_loss=validation.last,
            masks=config.sparsity,
        )
    else:
        origin = _origin(config, base)
    return replace(record, origin=origin)


def _origin(config: Config, base: Fields) -> Origin:
    """The pre-training of a fine-tuning, from what the run recorded of its base."""
    sparsity, seed = base.number("sparsity"), _whole(base.number("seed"))
    if sparsity is None:  # a run that kept its masks has the sparsity itself
        sparsity = config.sparsity.sparsity or None
    return Origin(
        sparsity=sparsity,
        method=base.text("method") or "static",
        seed=config.train.seed if seed is None else seed,
        mask_seed=_whole(base.number("mask_seed")),
        tokens=_whole(base.number("tokens")),
        flops=base.number("flops"),
        validation_loss=base.number("validation_loss"),
    )


def _pretraining_length(config: Config, steps: int) -> int:
    """The model's context, unless the number of steps proves that it was shorter."""
    context = config.model.max_sequence_length
    if steps <= config.train.total_steps(config.model):
        return context
    return math.ceil(planned_tokens(config) / (config.train.batch_size * steps))


def _curves(run: Run) -> tuple[dict[str, Curve], bool]:
    """The curves of `_CURVES` by name, and whether a record names an epoch."""
    columns: dict[str, tuple[list[int], list[float]]] = {n: ([], []) for n in _CURVES}
    has_epochs = False
    for line, record in enumerate(run.metrics(), 1):
        try:
            step = int(record["step"])
            has_epochs |= "epoch" in record
            for key, (steps, losses) in columns.items():
                if key in record:
                    losses.append(float(record[key]))
                    steps.append(step)
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"Line {line} of '{run.folder / 'metrics.jsonl'}' is not a record with "
                f"a step and a loss: {error!r}. Mend it, or leave the run out."
            ) from error
    curves = {
        name: Curve(tuple(steps), tuple(values))
        for name, (steps, values) in columns.items()
    }
    return curves, has_epochs


def _evaluations(folder: Path) -> tuple[Evaluation, ...]:
    return tuple(map(_evaluation, sorted((folder / "evaluation").glob("[!.]*.json"))))


def _evaluation(file: Path) -> Evaluation:
    fields = Fields(read_json(file), file)
    parts = fields.fields("parts")
    return Evaluation(
        task=fields.text("task", needed=True),
        split=fields.text("split", needed=True),
        protocol=fields.text("protocol"),
        inputs=_whole(fields.number("inputs")),
        decode=fields.fields("decode").values,
        scores=fields.fields("scores", needed=True).numbers(),
        errors=fields.fields("errors").texts(),
        parts={name: parts.fields(name).numbers() for name in parts.values},
        samples=tuple(map(_sample, fields.list_of_fields("samples"))),
        conditions=fields.conditions(Conditions),
        step=_whole(fields.number("step")),
        finished=fields.values.get("finished") is not False,
        seconds=fields.number("seconds") or 0.0,
    )


def _sample(fields: Fields) -> Sample:
    return Sample(
        context=fields.text("context"),
        hypothesis=fields.text("hypothesis"),
        references=fields.list_of_texts("references"),
    )


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
