"""The section of one task and split: scores, differences and figures."""

from collections.abc import Iterator, Sequence

from spdf_keras.report.content.cells import score_table
from spdf_keras.report.content.cost_figures import cost_figure
from spdf_keras.report.content.difference_tables import (
    INPUTS_TITLE,
    comparison_table,
    score_comparisons,
)
from spdf_keras.report.content.labels import Labels
from spdf_keras.report.content.origins import describe_decoding
from spdf_keras.report.content.score_figures import score_figures
from spdf_keras.report.content.score_tables import results_table
from spdf_keras.report.page.document import (
    Block,
    Paragraph,
    Section,
    Table,
    code,
    plain,
)
from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.notes import Notes
from spdf_keras.report.runs.records import Evaluation
from spdf_keras.report.runs.resampling import DRAWINGS, Resamples
from spdf_keras.values import listed

SEEDS = (
    "A difference is the mean over the seeds that both rows have. Its interval of 95% "
    "over seeds and its p are those of Student's paired t test."
)
_INPUTS = (
    f"The interval over inputs is the paired bootstrap, as in sacreBLEU: {DRAWINGS:,} "
    "drawings of the inputs, the same for all runs, the mean over seeds in each, and "
    "sacreBLEU's p."
)
UNRESOLVED = (
    "A difference without a mark is unresolved: an interval includes zero, or there is "
    "one pair. Intervals are not corrected for their number."
)


def task_section(
    groups: Sequence[Group],
    labels: Labels,
    resamples: Resamples,
    notes: Notes,
    is_main: bool,
) -> Section:
    """The scores of one task and split, with the paper's rows if it is the main one."""
    layout = score_table(groups[0].task, groups)
    name = f"{layout.name}: " if layout.name else ""
    blocks: list[Block] = [results_table(groups, labels, is_main)]
    own = notes.tasks.get(groups[0].task, ())
    blocks += [Paragraph(f"Note: {plain(text)}") for text in own]
    blocks += [Paragraph(text) for text in _score_notes(groups, is_main)]
    gaps = comparison_table(score_comparisons(groups, resamples), labels)
    if gaps:
        blocks += [gaps, Paragraph(_explain(groups[0].task, gaps, resamples))]
    if is_main:
        cost = cost_figure(groups, labels)
        blocks += [*score_figures(groups, labels), *([cost] if cost else [])]
    return Section(f"{name}{layout.task}, {groups[0].split}", tuple(blocks))


def _explain(task: str, gaps: Table, resamples: Resamples) -> str:
    if INPUTS_TITLE not in gaps.columns:
        return f"{SEEDS} {UNRESOLVED}"
    lacking = resamples.lacking.get(task)
    left = ""
    if lacking:
        one = len(lacking) == 1
        left = (
            f" {listed(lacking)} {'has' if one else 'have'} no interval over "
            "inputs: see the guide of `report --all-scores`."
        )
    return f"{SEEDS} {_INPUTS}{left} {UNRESOLVED}"


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
