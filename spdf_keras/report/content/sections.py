"""The sections of a report, in order."""

from collections.abc import Iterable, Iterator, Sequence

from spdf_keras.report.content.cells import score_table
from spdf_keras.report.content.density import density_figure, density_table
from spdf_keras.report.content.flops_tables import finetuning_table, pretraining_table
from spdf_keras.report.content.labels import Labels, model_labels, run_numbers
from spdf_keras.report.content.loss_figures import loss_figures, sparsity_colors
from spdf_keras.report.content.mask_figures import mask_figures
from spdf_keras.report.content.origins import describe_decoding, provenance_blocks
from spdf_keras.report.content.samples import sample_tables
from spdf_keras.report.content.score_figures import score_figures
from spdf_keras.report.content.score_tables import results_table, summary_table
from spdf_keras.report.page.document import (
    Block,
    Bullets,
    Paragraph,
    Section,
    code,
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
    unlike_recipes,
    without_losers,
)
from spdf_keras.report.runs.records import Evaluation, RunRecord


def build_sections(
    runs: Sequence[RunRecord], densities: Sequence[Density]
) -> tuple[Section, ...]:
    """Builds the sections for which these runs have content."""
    labels, colors = model_labels(runs), sparsity_colors(runs)
    chosen = without_losers(runs)
    pretraining, finetuning = pretraining_groups(runs), finetuning_groups(chosen)
    evaluations = evaluation_groups(runs)
    main = main_groups(evaluations)
    sections = [
        Section("Summary", _summary(pretraining, evaluations, labels)),
        Section("Missing or unlike", _missing(runs, pretraining, labels)),
    ]
    if pretraining:
        table = pretraining_table(pretraining, labels)
        sections.append(Section("Table 2: pre-training FLOPs", (table, _TABLE_2)))
    if finetuning:
        table = finetuning_table(finetuning, labels)
        sections.append(Section("Table 3: fine-tuning FLOPs", (table, _TABLE_3)))
    for groups in by_task_and_split(evaluations):
        layout = score_table(groups[0].task, groups)
        name = f"{layout.name}: " if layout.name else ""
        title = f"{name}{layout.task}, {groups[0].split}"
        is_main = any(groups[0] is group for group in main)
        blocks: list[Block] = [results_table(groups, labels, is_main)]
        blocks += [Paragraph(text) for text in _score_notes(groups, is_main)]
        blocks += score_figures(groups, labels) if is_main else []
        sections.append(Section(title, tuple(blocks)))
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
    "FLOPs per sequence are those at the longest sequence that a run allows, though "
    "batches are padded to their own longest. Fine-tunings that a search tried and "
    "did not choose are left out. The paper prints the forward pass alone as FLOPs per "
    "sequence, though its caption says forward and backward; its training FLOPs here "
    "are three times that, and its totals agree with them. Its 0.524 exaFLOPs of GPT-3 "
    "XL on E2E disagree with its own 5.27e17."
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
    pretraining: Sequence[Group], evaluations: Sequence[Group], labels: Labels
) -> tuple[Block, ...]:
    text = (
        "Cells are mean ± sample standard deviation over pre-training seeds, with the "
        "number of seeds in brackets; several runs of one seed count once, as their "
        "mean. The loss is that of the validation split, in nats per token. FLOPs "
        "count zeros as skipped. Rows in italics are printed in the paper."
    )
    if not pretraining and not evaluations:
        return (Paragraph("There is no pre-training and no evaluation to sum up."),)
    return summary_table(pretraining, evaluations, labels), Paragraph(text)


def _missing(
    runs: Sequence[RunRecord], pretraining: Sequence[Group], labels: Labels
) -> tuple[Block, ...]:
    kinds: dict[str, list[RunRecord]] = {}

    def note(text: str, run: RunRecord) -> None:
        kinds.setdefault(text, []).append(run)

    for run in runs:
        for condition in ("command", "versions", "hardware"):
            if not getattr(run.conditions, condition):
                note(f"{condition} not recorded", run)
        if not run.steps:
            note("it has not done a step", run)
        elif not run.training.steps:
            note("there is no training loss: metrics.jsonl is missing or empty", run)
        if run.steps and not run.validation.steps:
            note("the validation loss was not measured", run)
        # A study removes the weights of trials that its search did not choose.
        if run.checkpoint is None and not run.evaluations:
            note("there is no checkpoint", run)
        total = run.steps_in_all
        if run.kind == "pretrain" and total and 0 < run.steps < total:
            note(f"pre-training is at step {run.steps} of {total}", run)
        if run.kind != "pretrain" and run.started and not run.finished:
            where = f": it is at step {run.steps} of {total}" if total else ""
            note(f"fine-tuning is not finished{where}", run)
        if run.origin.sparsity is None:
            note("the sparsity of its pre-training is not recorded", run)
        if run.kind != "pretrain" and not run.evaluations:
            note("it has not been evaluated: use `spdf-keras evaluate`", run)
        for evaluation in run.evaluations:
            if not evaluation.finished:
                note(
                    f"{evaluation.task}, {evaluation.split}, was scored after step "
                    f"{evaluation.step}, before the run was finished",
                    run,
                )
            for score, reason in evaluation.errors.items():
                where = f"{evaluation.task}, {evaluation.split}"
                note(f"no {plain(score)} on {where}: {plain(reason)}", run)
    items = [
        f"{'Run' if len(members) == 1 else 'Runs'} {run_numbers(members)}: {text}"
        for text, members in kinds.items()
    ]
    singles = [run for group in pretraining for run in group.runs]
    if pretraining and all(
        len({run.seed for run in group.runs}) == 1 for group in pretraining
    ):
        numbers = run_numbers(singles)
        items.append(f"Runs {numbers}: one seed each, so there is no deviation")
    for model, label in labels.items():
        unlike = unlike_recipes([run for run in runs if run.config.model == model])
        if unlike:
            settings = ", ".join(map(code, unlike))
            items.append(f"{label}: pre-trainings differ in {settings} too")
    return (Bullets(tuple(items)),) if items else ()


def _score_notes(groups: Sequence[Group], with_printed: bool) -> Iterator[str]:
    layout = score_table(groups[0].task, groups)
    evaluations = [e for group in groups for e in group.evaluations]
    yield from dict.fromkeys(map(_how, evaluations))
    if any(group.variant for group in groups):
        yield (
            "Settings after a model's name tell rows apart that are otherwise alike, "
            "such as the points of a search."
        )
    if not with_printed:
        return
    if layout.printed and groups[0].split != "test":
        yield f"The printed rows are of the test set, ours of {groups[0].split}."
    if any(evaluation.parts for evaluation in evaluations) and layout.printed:
        yield (
            "The paper does not say which part its rows are of; they fit the seen "
            "categories."
        )
    if groups[0].task == "curation":
        yield "The paper's appendix prints no perplexity."


def _how(evaluation: Evaluation) -> str:
    inputs = "" if evaluation.inputs is None else f" on {evaluation.inputs:,} inputs"
    protocol = code(evaluation.protocol) if evaluation.protocol else "an unnamed way"
    text = f"Scored by {protocol}{inputs}"
    if evaluation.decode:
        return f"{text}; decoded with {code(describe_decoding(evaluation))}."
    return f"{text}."


def _one_each(densities: Iterable[Density]) -> list[Density]:
    """The first run of each model, sparsity and stage, because seeds look alike."""
    shown: dict[object, Density] = {}
    for density in densities:
        run = density.run
        kind = (run.config.model, run.config.sparsity.sparsity, run.kind)
        # A run with violations is always shown.
        shown.setdefault((kind, density.violations and run.number), density)
    return list(shown.values())
