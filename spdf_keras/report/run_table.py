"""The numbers of each run, from which a reader can make every mean again."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from spdf_keras.report.content.labels import model_labels
from spdf_keras.report.runs.groups import (
    evaluation_groups,
    finetuning_groups,
    pretraining_groups,
)
from spdf_keras.report.runs.records import RunRecord
from spdf_keras.report.runs.variants import tuning_of

# A report recognises the table of an earlier one by these.
_RUN = (
    *("run", "folder", "model", "parameters", "task", "tuning", "sparsity", "variant"),
    *("seed", "mask_seed", "finetuning_seed", "pretraining_tokens"),
    *("pretraining_flops", "pretraining_loss", "finetuning_flops", "finetuning_loss"),
)
_EVALUATION = ("split", "part", "inputs")
HEAD = ",".join(_RUN).encode()


def run_table(runs: Sequence[RunRecord]) -> str:
    """A CSV table of the runs, with a row per split and part of an evaluation.

    A run without evaluations has one row. Losses are in nats per token: the last one
    of the validation split for a pre-training, the lowest for a fine-tuning, per
    target token. Scores are in the unit of their scorer. What is not recorded is
    empty.
    """
    rows = [*_rows(runs)]
    fixed = (*_RUN, *_EVALUATION)
    # A score of a user's own metric may have the name of another column.
    columns = {
        name: f"score_{name}" if name in fixed else name
        for _, scores in rows
        for name in scores
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, [*fixed, *columns.values()], lineterminator="\n")
    writer.writeheader()
    for place, scores in rows:
        named = {columns[name]: value for name, value in scores.items()}
        writer.writerow(place | named)
    return text.getvalue()


def _rows(
    runs: Sequence[RunRecord],
) -> Iterator[tuple[dict[str, Any], dict[str, float | None]]]:
    """What was run and evaluated, and the scores, of each row."""
    labels = model_labels(runs)
    trainings = [*pretraining_groups(runs), *finetuning_groups(runs)]
    variants = {run.number: g.variant for g in trainings for run in g.runs}
    # An evaluation is of another variant where the decoding differs, too.
    decodings = {
        id(e): group.variant
        for group in evaluation_groups(runs)
        for e in group.evaluations
    }
    for run in runs:
        own = _training(run) | {"model": labels[run.config.model]}
        if not run.evaluations:
            yield own | {"variant": variants[run.number]}, {}
        for evaluation in run.evaluations:
            place = own | {
                "task": evaluation.task,
                "variant": decodings[id(evaluation)],
                "split": evaluation.split,
            }
            yield place | {"inputs": evaluation.inputs}, evaluation.scores
            for part, scores in evaluation.parts.items():
                yield place | {"part": part}, scores


def _training(run: RunRecord) -> dict[str, Any]:
    origin = run.origin
    found = {
        "run": run.number,
        "folder": run.name,
        "parameters": run.config.model.num_parameters,
        "task": run.task,
        "tuning": tuning_of(run),
        "sparsity": origin.sparsity,
        "seed": origin.seed,
        "mask_seed": origin.mask_seed,
        "pretraining_tokens": origin.tokens,
        "pretraining_flops": origin.flops,
        "pretraining_loss": origin.validation_loss,
    }
    if run.kind != "pretrain":
        found["finetuning_seed"] = run.config.finetune.seed
        found["finetuning_flops"] = run.own_flops
        found["finetuning_loss"] = run.validation.best
    return found
