"""Finds run folders and reads what a report shows of them.

Nothing is loaded into a model, and TensorFlow is not needed. What a run has recorded
wrongly is an error, because a table that leaves it out would mislead.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spdf_keras.config import Config
from spdf_keras.errors import InputError
from spdf_keras.report.runs.fields import Fields, hide_paths, read_json
from spdf_keras.report.runs.printed import task_order
from spdf_keras.report.runs.records import (
    Conditions,
    Curve,
    Evaluation,
    Origin,
    RunRecord,
    Sample,
)
from spdf_keras.training.checkpoint import checkpoint_step
from spdf_keras.training.run import Run

_PARTS_OF_A_RUN = ("tokenizer", "checkpoints", "metrics.jsonl")


def collect(folders: Sequence[str | Path]) -> list[RunRecord]:
    """Reads all runs in some folders.

    Args:
        folders: Each a run, or a folder that holds runs somewhere below. A run
            that is met twice counts once.

    Returns:
        The runs in the order of the report, which does not depend on that of the
        arguments: pre-training first, then by size, sparsity, task and seed.

    Raises:
        InputError: If a folder is missing or holds no run, or a file of a run
            cannot be read; the message names it.
    """
    found: dict[Path, tuple[Path, str]] = {}
    for argument, name in zip(folders, _names(folders), strict=True):
        argument = Path(argument)
        if not argument.is_dir():
            raise InputError(
                f"There is no folder '{argument}'. Name a run, or a folder with runs."
            )
        below = _find(argument)
        if not below:
            raise InputError(
                f"No run in '{argument}' or below: a run has a config.toml beside its "
                "checkpoints. Make one with `spdf-keras pretrain`."
            )
        for folder in below:
            inner = folder.relative_to(argument).as_posix()
            shown = name if inner == "." else f"{name}/{inner}".removeprefix("./")
            found.setdefault(folder.resolve(), (folder, shown))
    if not found:
        raise InputError("`folders` must name at least one run. Received: none.")
    runs = sorted((_read(*place) for place in found.values()), key=_order)
    numbered = [replace(run, number=number) for number, run in enumerate(runs, 1)]
    return [_with_base(run, numbered) for run in numbered]


def _with_base(run: RunRecord, runs: Sequence[RunRecord]) -> RunRecord:
    """Names the run that a fine-tuning started from, where it is here and no other."""
    same = [
        other
        for other in runs
        if other.kind == "pretrain" != run.kind
        and (other.config.model, other.config.train, other.seed)
        == (run.config.model, run.config.train, run.seed)
        and other.origin.sparsity == run.origin.sparsity
    ]
    if len(same) != 1:
        return run
    # What a run of an earlier version does not know of its base.
    origin = same[0].origin if run.origin.flops is None else run.origin
    return replace(run, base=f"run {same[0].number}", origin=origin)


def _order(run: RunRecord) -> tuple[Any, ...]:
    absent = math.inf
    origin = run.origin
    return (
        run.kind != "pretrain",
        run.config.model.num_parameters,
        absent if origin.sparsity is None else origin.sparsity,
        *task_order(run.task),
        run.masks == "kept",
        absent if origin.seed is None else origin.seed,
        absent if origin.mask_seed is None else origin.mask_seed,
        run.name,
    )


def _names(folders: Sequence[str | Path]) -> list[str]:
    """How each argument is shown: as given, but never from the root of the disk."""
    absolute = [Path(f) for f in folders if Path(f).is_absolute()]
    root = os.path.commonpath([path.parent for path in absolute]) if absolute else ""
    return [
        path.relative_to(root).as_posix() if path.is_absolute() else path.as_posix()
        for path in map(Path, folders)
    ]


def _is_run(folder: Path) -> bool:
    parts = (folder / part for part in _PARTS_OF_A_RUN)
    return (folder / "config.toml").is_file() and any(part.exists() for part in parts)


def _find(folder: Path) -> list[Path]:
    if _is_run(folder):
        return [folder]
    # A link may lead back up; hidden folders are other programs'.
    children = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    inner = [p for p in children if p.is_dir() and not p.is_symlink()]
    return [run for child in inner for run in _find(child)]


def _read(folder: Path, name: str) -> RunRecord:
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
    training, validation, has_epochs = _curves(run)
    kind = recorded.text("kind") or ("finetune" if has_epochs else "pretrain")
    checkpoints = run.checkpoints()
    checkpoint = run.checkpoint() if checkpoints else None
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
        checkpoint=checkpoint,
        evaluations=_evaluations(folder),
        conditions=recorded.conditions(Conditions),
        started=recorded.text("started"),
        length=length,
        planned_steps=_whole(recorded.number("total_steps")),
    )
    if kind == "pretrain":
        origin = Origin(
            config.sparsity.sparsity,
            config.train.seed,
            config.sparsity.seed,
            record.sequences * length,
            record.total_flops,
            validation.last,
        )
    else:
        origin = _origin(config, base)
    return replace(record, origin=origin)


def _origin(config: Config, base: Fields) -> Origin:
    sparsity = base.number("sparsity")
    # Where masks were kept, the run itself still has the sparsity.
    own = config.sparsity.sparsity or None
    seed, mask_seed = base.number("seed"), base.number("mask_seed")
    tokens = base.number("tokens")
    return Origin(
        own if sparsity is None else sparsity,
        config.train.seed if seed is None else int(seed),
        None if mask_seed is None else int(mask_seed),
        None if tokens is None else int(tokens),
        base.number("flops"),
        base.number("validation_loss"),
    )


def _pretraining_length(config: Config, steps: int) -> int:
    """The model's context, unless so many steps prove that it was shorter."""
    context = config.model.max_sequence_length
    if steps <= config.train.total_steps(config.model):
        return context
    tokens = config.train.tokens or 20 * config.model.num_parameters
    return math.ceil(tokens / (config.train.batch_size * steps))


def _curves(run: Run) -> tuple[Curve, Curve, bool]:
    columns: dict[str, tuple[list[int], list[float]]] = {
        "loss": ([], []),
        "validation_loss": ([], []),
    }
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
    training, validation = (
        Curve(tuple(steps), tuple(losses)) for steps, losses in columns.values()
    )
    return training, validation, has_epochs


def _evaluations(folder: Path) -> tuple[Evaluation, ...]:
    return tuple(map(_evaluation, sorted((folder / "evaluation").glob("[!.]*.json"))))


def _evaluation(file: Path) -> Evaluation:
    fields = Fields(read_json(file), file)
    return Evaluation(
        task=fields.text("task", needed=True),
        split=fields.text("split", needed=True),
        protocol=fields.text("protocol"),
        inputs=_whole(fields.number("inputs")),
        decode=fields.fields("decode").values,
        scores=fields.fields("scores", needed=True).numbers(),
        errors=fields.fields("errors").texts(),
        parts={
            name: fields.fields("parts").fields(name).numbers()
            for name in fields.fields("parts").values
        },
        samples=tuple(
            Sample(
                s.text("context"), s.text("hypothesis"), s.list_of_texts("references")
            )
            for s in fields.list_of_fields("samples")
        ),
        conditions=fields.conditions(Conditions),
        step=_whole(fields.number("step")),
        finished=fields.values.get("finished") is not False,
    )


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
