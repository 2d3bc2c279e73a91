"""Tables 2 and 3: FLOPs of our runs, beside the paper's rows."""

from collections.abc import Sequence

from spdf_keras.flops import (
    FINETUNE_SEQUENCE_LENGTH,
    MODELS,
    PRINTED_TABLE_2,
    PRINTED_TABLE_3,
    TRAINING_FACTOR,
    training_flops,
)
from spdf_keras.report.content.cells import ABSENT, beside, cell, place_order, row
from spdf_keras.report.content.labels import (
    TUNING,
    Labels,
    dataset_name,
    group_label,
    printed_label,
    run_numbers,
)
from spdf_keras.report.content.quantities import exaflops, percent, scientific
from spdf_keras.report.page.document import Row, Table
from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.means import summarise


def pretraining_table(groups: Sequence[Group], labels: Labels) -> Table:
    """Table 2: FLOPs of our pre-trainings, and their validation loss."""

    def ours(group: Group) -> Row:
        run = group.runs[0]
        dense = training_flops(run.config.model, run.length)
        total = group.mean(lambda run: run.total_flops)
        loss = group.summary(lambda run: run.validation.last)
        sparsity = percent(group.sparsity)
        if group.sparsity is not None and run.mean_sparsity != group.sparsity:
            sparsity += f" (mean {100 * run.mean_sparsity:.4g}%)"
        return row(
            group_label(group, labels),
            sparsity,
            scientific(group.mean(lambda run: run.sequences)),
            scientific(run.training_flops),
            scientific(total),
            exaflops(total),
            f"{run.training_flops / dense:.3f}x",
            cell(loss, 3),
            run_numbers(group.runs),
        )

    def printed(name: str, sparsity: float) -> Row:
        cells = PRINTED_TABLE_2[name, sparsity]
        return row(
            printed_label(name, groups),
            percent(sparsity),
            scientific(cells.sequences),
            scientific(cells.flops_per_sequence),
            scientific(cells.total_flops),
            f"{cells.exaflops:.2f}",
            f"{cells.ratio:g}x",
            ABSENT,
            ABSENT,
            quoted=True,
        )

    return Table(
        (
            *("Model", "Pre-train sparsity", "Sequences", "FLOPs / sequence"),
            *("Total FLOPs", "exaFLOPs", "FLOPs over dense", "Validation loss ↓"),
            "Runs",
        ),
        tuple(
            ours(place) if isinstance(place, Group) else printed(*place)
            for place in beside(groups, PRINTED_TABLE_2, always=tuple(MODELS))
        ),
        "Pre-training, forward and backward pass",
        text_columns=2,
    )


def finetuning_table(groups: Sequence[Group], labels: Labels) -> Table:
    """Table 3: FLOPs of our fine-tunings, both readings of FLOPs per sequence."""
    rows = []
    for dataset in dict.fromkeys(dataset_name(group.task) for group in groups):
        here = [group for group in groups if dataset_name(group.task) == dataset]
        for group in sorted(here, key=place_order):
            run = group.runs[0]
            total = group.mean(lambda run: run.total_flops)
            batched = group.summary(lambda run: run.step_flops)
            before = summarise((run.seed, run.origin.flops) for run in group.runs)
            own = group.mean(lambda run: run.own_flops)
            rows.append(
                row(
                    dataset,
                    group_label(group, labels),
                    percent(group.sparsity),
                    TUNING[group.tuning],
                    str(run.length),
                    scientific(group.mean(lambda run: run.sequences)),
                    scientific(run.forward_flops),
                    scientific(run.training_flops),
                    scientific(total),
                    exaflops(total),
                    scientific(batched.mean) if batched else ABSENT,
                    f"{own / before.mean:.2%}" if before else ABSENT,
                    run_numbers(group.runs),
                )
            )
        for (name, model), cells in PRINTED_TABLE_3.items():
            if name != dataset:
                continue
            rows.append(
                row(
                    dataset,
                    printed_label(model, groups),
                    "any",
                    TUNING["dense"],
                    str(FINETUNE_SEQUENCE_LENGTH),
                    scientific(cells.sequences),
                    scientific(cells.flops_per_sequence),
                    scientific(TRAINING_FACTOR * cells.flops_per_sequence),
                    scientific(cells.total_flops),
                    f"{cells.exaflops:.3f}",
                    *(ABSENT, ABSENT, ABSENT),
                    quoted=True,
                )
            )
    return Table(
        (
            *("Dataset", "Model", "Pre-train sparsity", "Fine-tuning", "Tokens"),
            *("Sequences", "Forward FLOPs / sequence", "Training FLOPs / sequence"),
            *("Total FLOPs", "exaFLOPs", "FLOPs as batched", "Of pre-training"),
            "Runs",
        ),
        tuple(rows),
        "Fine-tuning",
        text_columns=4,
    )
