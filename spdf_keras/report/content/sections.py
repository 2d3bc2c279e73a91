"""The sections of a report, in order."""

import dataclasses
from collections.abc import Iterable, Sequence

from spdf_keras.report.content.density import density_figure, density_table
from spdf_keras.report.content.difference_tables import (
    comparison_table,
    loss_comparisons,
)
from spdf_keras.report.content.equal_operations import equal_operations_blocks
from spdf_keras.report.content.flops_tables import finetuning_table, pretraining_table
from spdf_keras.report.content.labels import Labels, dataset_name, model_labels
from spdf_keras.report.content.loss_figures import loss_figures, sparsity_colors
from spdf_keras.report.content.mask_figures import mask_figures
from spdf_keras.report.content.missing import missing_blocks
from spdf_keras.report.content.origins import provenance_blocks
from spdf_keras.report.content.samples import sample_tables
from spdf_keras.report.content.score_tables import note_marks, summary_table
from spdf_keras.report.content.sizes import sizes_blocks
from spdf_keras.report.content.task_sections import SEEDS, UNRESOLVED, task_section
from spdf_keras.report.page.document import (
    Block,
    Bullets,
    Paragraph,
    Section,
    plain,
)
from spdf_keras.report.runs.density import Density
from spdf_keras.report.runs.groups import (
    Group,
    by_task_and_split,
    evaluation_groups,
    finetuning_groups,
    main_groups,
    pretraining_groups,
    without_losers,
)
from spdf_keras.report.runs.notes import Notes
from spdf_keras.report.runs.records import RunRecord
from spdf_keras.report.runs.resampling import Resamples


def build_sections(
    runs: Sequence[RunRecord],
    densities: Sequence[Density],
    resamples: Resamples,
    notes: Notes,
) -> tuple[Section, ...]:
    """Builds the sections for which these runs have content."""
    labels, colors = model_labels(runs), sparsity_colors(runs)
    chosen = without_losers(runs)
    pretraining, finetuning = pretraining_groups(runs), finetuning_groups(chosen)
    evaluations = evaluation_groups(runs)
    main = main_groups(evaluations)
    sections = [
        Section("Summary", _summary(pretraining, evaluations, labels, notes)),
        Section(
            "Missing or unlike", missing_blocks(runs, pretraining, labels, resamples)
        ),
    ]
    if pretraining:
        blocks: list[Block] = [pretraining_table(pretraining, labels), _TABLE_2]
        gaps = comparison_table(
            loss_comparisons(pretraining), labels, "Differences of the validation loss"
        )
        if gaps:
            blocks += [gaps, Paragraph(f"{SEEDS} {UNRESOLVED}")]
        sections.append(Section("Table 2: pre-training FLOPs", tuple(blocks)))
    if finetuning:
        table = finetuning_table(finetuning, labels)
        sections.append(Section("Table 3: fine-tuning FLOPs", (table, _TABLE_3)))
    sections += [
        task_section(
            groups, labels, resamples, notes, any(groups[0] is g for g in main)
        )
        for groups in by_task_and_split(evaluations)
    ]
    equal = equal_operations_blocks(pretraining, evaluations, labels, resamples)
    sections.append(Section("Equal operations", tuple(equal)))
    sizes = sizes_blocks(pretraining, evaluations, labels, resamples)
    sections.append(Section("Sizes", tuple(sizes)))
    curves = loss_figures(chosen, labels, colors)
    if curves:
        sections.append(Section("Loss curves", (_LOSSES, *curves)))
    changes = mask_figures(runs, labels)
    if changes:
        sections.append(Section("Masks over the steps", (_MASKS, *changes)))
    if densities:
        figures = map(density_figure, _one_each(densities))
        sections.append(
            Section("Density per layer", (density_table(densities), _DENSITY, *figures))
        )
    samples = tuple(sample_tables(main, labels))
    if samples:
        sections.append(Section("Sample outputs", (_OUTPUTS, *samples)))
    provenance = tuple(provenance_blocks(runs, labels))
    sections.append(Section("Commands, versions, hardware", provenance))
    return tuple(section for section in sections if section.blocks)


_TABLE_2 = Paragraph(
    "The sequences of an unfinished pre-training are taken to be as long as the "
    "model's context. Zeros count as skipped, which no ordinary processor achieves. In "
    "the paper's row of GPT-2 Small at 75%, the total and the ratio are quotients of "
    "rounded figures; unrounded they are 1.47e18 and 0.606x."
)
_TABLE_3 = Paragraph(
    "FLOPs per sequence and their totals are those at the longest sequence that a run "
    "allows, as in the paper. Batches are padded to their own longest: `FLOPs as "
    "batched` are those that the steps recorded, and what is set against pre-training. "
    "Fine-tunings that a search tried and did not choose are left out. The paper "
    "prints the forward pass alone as FLOPs per sequence, though its caption says "
    "forward and backward; its training FLOPs here are three times that, and its "
    "totals agree with them. Its 0.524 exaFLOPs of GPT-3 XL on E2E disagree with its "
    "own 5.27e17."
)
_LOSSES = Paragraph(
    "One line per run and one colour per sparsity. Training losses are smoothed; the "
    "first 5% of the steps may lie above the axis. Fine-tuning losses include label "
    "smoothing; those that a search tried and did not choose are left out."
)
_MASKS = Paragraph(
    "One line per run whose masks change, alike for the seeds of a method. "
    "The turnover is the share of the kept weights that an update drops."
)
_DENSITY = Paragraph(
    "Masks and weights are counted in the checkpoint. `Exact count` is the number of "
    "matrices that have exactly as many zeros as was asked for. A violation is a "
    "weight that is not zero although its mask prunes it; there must be none."
)
_OUTPUTS = Paragraph(
    "The tables show the first inputs that were kept with the scores. Each group is "
    "represented by its run with the lowest number that kept them."
)


def _summary(
    pretraining: Sequence[Group],
    evaluations: Sequence[Group],
    labels: Labels,
    notes: Notes,
) -> tuple[Block, ...]:
    text = (
        "Cells are mean ± sample standard deviation over pre-training seeds, with the "
        "number of seeds in brackets; several runs of one seed count once, as their "
        "mean. The loss is that of the validation split, in nats per token. FLOPs "
        "count zeros as skipped. Rows in italics are printed in the paper."
    )
    if not pretraining and not evaluations:
        return (Paragraph("There is no pre-training and no evaluation to sum up."),)
    shown = {group.task for group in evaluations}
    tasks = {task: texts for task, texts in notes.tasks.items() if task in shown}
    marks = note_marks(dataclasses.replace(notes, tasks=tasks))
    table = summary_table(pretraining, evaluations, labels, marks)
    items = [plain(note) for note in notes.whole]
    items += [
        f"{marks[task]} {dataset_name(task)}: {plain(' '.join(texts))}"
        for task, texts in tasks.items()
    ]
    return table, Paragraph(text), *((Bullets(tuple(items)),) if items else ())


def _one_each(densities: Iterable[Density]) -> list[Density]:
    """The first run of each model, sparsity and stage, because seeds look alike."""
    shown: dict[object, Density] = {}
    for density in densities:
        run = density.run
        kind = (run.config.model, run.config.sparsity.sparsity, run.kind)
        # A run with violations is always shown.
        shown.setdefault((kind, density.violations and run.number), density)
    return list(shown.values())
