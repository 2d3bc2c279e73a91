"""Finds run folders, and puts their records in the order of the report."""

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.report.runs.groups import task_order
from spdf_keras.report.runs.reader import read_run
from spdf_keras.report.runs.records import RunRecord

_PARTS_OF_A_RUN = ("tokenizer", "checkpoints", "metrics.jsonl")


def collect(folders: Sequence[str | Path]) -> list[RunRecord]:
    """Reads all runs in some folders.

    Args:
        folders: Runs, or folders that hold runs somewhere below. A run that is
            found twice counts once.

    Returns:
        The runs in the order of the report, which does not depend on that of the
        arguments: pre-training first, then by size, sparsity, task and seed.

    Raises:
        InputError: If a folder is missing or holds no run, or a file of a run
            cannot be read; the message names it.
    """
    places: dict[Path, tuple[Path, str]] = {}
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
            places.setdefault(folder.resolve(), (folder, shown))
    if not places:
        raise InputError("`folders` must name at least one run. Received: none.")
    read = [read_run(*place) for place in places.values()]
    # A converted run has no training to report; one that was fine-tuned from it has.
    runs = sorted((run for run in read if run.kind != "convert"), key=_order)
    if not runs:
        raise InputError(
            "A report is of trainings. Received: runs that `spdf-keras convert` made, "
            "alone. Name a run that was fine-tuned from them."
        )
    numbered = [replace(run, number=number) for number, run in enumerate(runs, 1)]
    return [_with_base(run, numbered) for run in numbered]


def _with_base(run: RunRecord, runs: Sequence[RunRecord]) -> RunRecord:
    """Names the run that a fine-tuning started from, if exactly one here fits."""
    bases = [
        other
        for other in runs
        if other.kind == "pretrain" != run.kind
        and (other.config.model, other.config.train, other.seed)
        == (run.config.model, run.config.train, run.seed)
        and other.origin.sparsity == run.origin.sparsity
        and other.origin.method == run.origin.method
    ]
    # Variants of a study share all of these; a fine-tuning lies beside its own.
    near = [_shared(run.folder, other.folder) for other in bases]
    bases = [b for b, n in zip(bases, near, strict=True) if n == max(near)]
    if len(bases) != 1:
        return run
    # A run of an earlier version has not recorded all of its origin.
    origin = bases[0].origin if run.origin.flops is None else run.origin
    origin = replace(origin, masks=bases[0].config.sparsity)
    return replace(run, base=f"run {bases[0].number}", origin=origin)


def _shared(folder: Path, other: Path) -> int:
    """The number of folders that lie above both."""
    pairs = zip(folder.resolve().parts, other.resolve().parts, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


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
    """The names that arguments get in the report; an absolute path loses its start."""
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
    # A link may lead back up, and hidden folders belong to other programs.
    children = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    inner = [p for p in children if p.is_dir() and not p.is_symlink()]
    return [run for child in inner for run in _find(child)]
