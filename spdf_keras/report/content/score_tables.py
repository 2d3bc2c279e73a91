"""Tables 4 to 6 beside the paper's rows, and the summary of all tasks.

Our cells are `mean ± standard deviation (seeds)`. The last column gives the numbers of
the runs behind a row; the report lists these runs with their commands.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from spdf_keras.report.content.cells import (
    ABSENT,
    MEANS,
    beside,
    cell,
    place_order,
    row,
    score_cell,
    score_table,
)
from spdf_keras.report.content.labels import (
    TUNING,
    Labels,
    group_label,
    printed_label,
    run_numbers,
)
from spdf_keras.report.content.quantities import percent, scientific
from spdf_keras.report.page.document import Row, Table
from spdf_keras.report.runs.groups import Group, main_groups, pretraining_flops
from spdf_keras.report.runs.means import summarise
from spdf_keras.report.runs.notes import Notes


def results_table(
    groups: Sequence[Group], labels: Labels, with_printed: bool = True
) -> Table:
    """Table 4, 5 or 6: the scores of one task and split."""
    layout = score_table(groups[0].task, groups)
    parts = list(dict.fromkeys(part for group in groups for part in group.parts))

    def ours(group: Group, part: str) -> Row:
        return row(
            group_label(group, labels),
            percent(group.sparsity),
            TUNING[group.tuning],
            *([part or "all"] if parts else []),
            *(score_cell(group.score(s.name, part), s) for s in layout.scores),
            run_numbers(group.runs),
        )

    def printed(name: str, sparsity: float) -> Row:
        cells = layout.printed[name, sparsity]
        return row(
            printed_label(name, groups),
            percent(sparsity),
            TUNING["dense"],
            *(["not stated"] if parts else []),
            *(str(cells[score.name]) for score in layout.scores),
            ABSENT,
            quoted=True,
        )

    rows: list[Row] = []
    keys = layout.printed if with_printed else ()
    for place in beside(groups, keys, always=("gpt2_small",)):
        if isinstance(place, Group):
            rows += [ours(place, part) for part in (*parts, "")]
        else:
            rows.append(printed(*place))
    return Table(
        (
            *("Model", "Pre-train sparsity", "Fine-tuning"),
            *(["Part"] if parts else []),
            *(score.heading for score in layout.scores),
            "Runs",
        ),
        tuple(rows),
        MEANS,
        text_columns=4 if parts else 3,
    )


def note_marks(notes: Notes) -> dict[str, str]:
    """A mark for each task of which a study says something, as a footnote.

    Example:
        >>> note_marks(Notes((), {"dart": ("Its dev split is divided.",)}))
        {'dart': '[1]'}
    """
    return {task: f"[{number}]" for number, task in enumerate(notes.tasks, 1)}


def summary_table(
    pretraining: Sequence[Group],
    evaluations: Sequence[Group],
    labels: Labels,
    marks: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """One row per model, sparsity and way of fine-tuning: its cost and its scores.

    Each task has a column with its main score, on the test set where that was scored,
    and with its mark of `marks`, if it has one.
    """
    shown = main_groups(evaluations)
    splits = {group.task: group.split for group in shown}
    evaluated = {(group.model, group.sparsity) for group in shown}
    shown += [g for g in pretraining if (g.model, g.sparsity) not in evaluated]
    layouts = {task: score_table(task, shown) for task in splits}
    main = {task: layout.scores[0] for task, layout in layouts.items() if layout.scores}
    rows = []
    dense = {g.model: pretraining_flops([g]) for g in shown if g.sparsity == 0}
    shown.sort(key=place_order)
    for place in dict.fromkeys(group.place for group in shown):
        here = [group for group in shown if group.place == place]
        runs = {run.number: run for group in here for run in group.runs}.values()
        flops, whole = pretraining_flops(here), dense.get(place[0])
        losses = ((run.seed, run.origin.validation_loss) for run in runs)
        cells = []
        for task, score in main.items():
            scored = [group for group in here if group.task == task]
            mean = scored[0].score(score.name) if scored else None
            cells.append(score_cell(mean, score))
        rows.append(
            row(
                group_label(here[0], labels),
                percent(place[1]),
                TUNING[place[2]],
                scientific(flops) if flops else ABSENT,
                f"{flops / whole:.3f}x" if flops and whole else ABSENT,
                cell(summarise(losses), 3),
                *cells,
            )
        )
    return Table(
        (
            *("Model", "Pre-train sparsity", "Fine-tuning", "Pre-train FLOPs"),
            *("of dense", "Pre-train loss ↓"),
            *(
                " ".join(
                    f"{layouts[task].task} {score.heading} ({splits[task]}) "
                    f"{marks.get(task, '')}".split()
                )
                for task, score in main.items()
            ),
        ),
        tuple(rows),
        MEANS,
        text_columns=3,
    )
