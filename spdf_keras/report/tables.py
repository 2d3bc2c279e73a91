"""Tables 2 to 6 in the paper's layout: our runs, and the paper's rows beside them.

A cell of ours is `mean ± standard deviation (seeds)`. The last column gives the
numbers of the runs behind a row, which the report lists with their commands.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from spdf_keras.config import GPTConfig
from spdf_keras.flops import (
    FINETUNE_SEQUENCE_LENGTH,
    MODELS,
    PRINTED_TABLE_2,
    PRINTED_TABLE_3,
    TRAINING_FACTOR,
    training_flops,
)
from spdf_keras.report.density import Density
from spdf_keras.report.document import Row, Table
from spdf_keras.report.groups import Group, Summary, percent, summarise
from spdf_keras.report.printed import (
    SCORE_TABLES,
    Score,
    ScoreTable,
    paper_model,
)
from spdf_keras.report.records import RunRecord

Labels = Mapping[GPTConfig, str]
ABSENT = "-"
_TUNING = {"none": "none", "dense": "dense", "sparse": "sparse (masks kept)"}


def score_table(task: str, groups: Sequence[Group]) -> ScoreTable:
    """The layout of a task's table; for a task that the paper lacks, its scores."""
    if task in SCORE_TABLES:
        return SCORE_TABLES[task]
    names = dict.fromkeys(name for group in groups for name in group.score_names)
    return ScoreTable("", task, tuple(Score(name, name) for name in names), {})


def pretraining_table(groups: Sequence[Group], labels: Labels) -> Table:
    """Table 2: FLOPs of our pre-trainings, and their validation loss."""

    def ours(group: Group) -> Row:
        run = group.runs[0]
        dense = training_flops(run.config.model, run.length)
        total = _mean(group, lambda run: run.total_flops)
        loss = group.summary(lambda run: run.validation.last)
        return _row(
            _label(group, labels),
            percent(group.sparsity),
            scientific(_mean(group, lambda run: run.sequences)),
            scientific(run.training_flops),
            scientific(total),
            exaflops(total),
            f"{run.training_flops / dense:.3f}x",
            _cell(loss, 3),
            group.numbers,
        )

    def printed(name: str, sparsity: float) -> Row:
        cells = PRINTED_TABLE_2[name, sparsity]
        return _row(
            _printed_label(name, groups),
            percent(sparsity),
            scientific(cells.sequences),
            scientific(cells.flops_per_sequence),
            scientific(cells.total_flops),
            f"{cells.exaflops:.2f}",
            f"{cells.ratio:g}x",
            ABSENT,
            ABSENT,
            printed=True,
        )

    return Table(
        (
            *("Model", "Pre-train sparsity", "Sequences", "FLOPs / sequence"),
            *("Total FLOPs", "exaFLOPs", "FLOPs over dense", "Validation loss ↓"),
            "Runs",
        ),
        tuple(
            ours(place) if isinstance(place, Group) else printed(*place)
            for place in _beside(groups, PRINTED_TABLE_2, always=tuple(MODELS))
        ),
        "Pre-training, forward and backward pass",
    )


def finetuning_table(groups: Sequence[Group], labels: Labels) -> Table:
    """Table 3: FLOPs of our fine-tunings, both readings of FLOPs per sequence."""
    rows = []
    datasets = dict.fromkeys(_dataset(group.task) for group in groups)
    for dataset in datasets:
        for group in (g for g in groups if _dataset(g.task) == dataset):
            run = group.runs[0]
            total = _mean(group, lambda run: run.total_flops)
            before = summarise((run.seed, run.origin.flops) for run in group.runs)
            rows.append(
                _row(
                    dataset,
                    _label(group, labels),
                    percent(group.sparsity),
                    _TUNING[group.tuning],
                    str(run.length),
                    scientific(_mean(group, lambda run: run.sequences)),
                    scientific(run.forward_flops),
                    scientific(run.training_flops),
                    scientific(total),
                    exaflops(total),
                    f"{total / before.mean:.2%}" if before else ABSENT,
                    group.numbers,
                )
            )
        for (name, model), cells in PRINTED_TABLE_3.items():
            if name != dataset:
                continue
            rows.append(
                _row(
                    dataset,
                    _printed_label(model, groups),
                    "any",
                    _TUNING["dense"],
                    str(FINETUNE_SEQUENCE_LENGTH),
                    scientific(cells.sequences),
                    scientific(cells.flops_per_sequence),
                    scientific(TRAINING_FACTOR * cells.flops_per_sequence),
                    scientific(cells.total_flops),
                    f"{cells.exaflops:.3f}",
                    ABSENT,
                    ABSENT,
                    printed=True,
                )
            )
    return Table(
        (
            *("Dataset", "Model", "Pre-train sparsity", "Fine-tuning", "Tokens"),
            *("Sequences", "Forward FLOPs / sequence", "Training FLOPs / sequence"),
            *("Total FLOPs", "exaFLOPs", "Of pre-training", "Runs"),
        ),
        tuple(rows),
        "Fine-tuning",
        text_columns=4,
    )


def results_table(groups: Sequence[Group], labels: Labels) -> Table:
    """Table 4, 5 or 6: the scores of one task and split."""
    layout = score_table(groups[0].task, groups)
    parts = list(dict.fromkeys(part for group in groups for part in group.parts))

    def ours(group: Group, part: str) -> Row:
        return _row(
            _label(group, labels),
            percent(group.sparsity),
            _TUNING[group.tuning],
            *([part or "all"] if parts else []),
            *(_score_cell(group.score(s.name, part), s) for s in layout.scores),
            group.numbers,
        )

    def printed(name: str, sparsity: float) -> Row:
        cells = layout.printed[name, sparsity]
        return _row(
            _printed_label(name, groups),
            percent(sparsity),
            _TUNING["dense"],
            *(["not stated"] if parts else []),
            *(str(cells[score.name]) for score in layout.scores),
            ABSENT,
            printed=True,
        )

    rows: list[Row] = []
    for place in _beside(groups, layout.printed, always=("gpt2_small",)):
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
        f"{layout.task}, {groups[0].split}",
        text_columns=4 if parts else 3,
    )


def summary_table(
    pretraining: Sequence[Group], evaluations: Sequence[Group], labels: Labels
) -> Table:
    """One row per model, sparsity and way of fine-tuning: its cost and its scores.

    Of each task it has the main score, on the test set where that was decoded.
    """
    splits: dict[str, str] = {}
    for group in evaluations:  # `test` comes first
        splits.setdefault(group.task, group.split)
    shown = [g for g in evaluations if splits[g.task] == g.split]
    evaluated = {(group.model, group.sparsity) for group in shown}
    shown += [g for g in pretraining if (g.model, g.sparsity) not in evaluated]
    layouts = {task: score_table(task, shown) for task in splits}
    rows = []
    dense = {g.model: _pretraining_flops([g]) for g in shown if g.sparsity == 0}
    shown.sort(key=place_order)
    for place in dict.fromkeys(group.place for group in shown):
        here = [group for group in shown if group.place == place]
        runs = {run.number: run for group in here for run in group.runs}.values()
        flops, whole = _pretraining_flops(here), dense.get(place[0])
        losses = ((run.seed, run.origin.validation_loss) for run in runs)
        cells = []
        for task, layout in layouts.items():
            found = [group for group in here if group.task == task]
            score = layout.scores[0] if layout.scores else None
            mean = found[0].score(score.name) if found and score else None
            cells.append(_score_cell(mean, score) if score else ABSENT)
        rows.append(
            _row(
                _label(here[0], labels),
                percent(place[1]),
                _TUNING[place[2]],
                scientific(flops) if flops else ABSENT,
                f"{flops / whole:.3f}x" if flops and whole else ABSENT,
                _cell(summarise(losses), 3),
                *cells,
            )
        )
    return Table(
        (
            *("Model", "Pre-train sparsity", "Fine-tuning", "Pre-train FLOPs"),
            *("of dense", "Pre-train loss ↓"),
            *(
                f"{layouts[task].task} {layouts[task].scores[0].heading} ({split})"
                for task, split in splits.items()
                if layouts[task].scores
            ),
        ),
        tuple(rows),
        "Mean ± standard deviation (seeds)",
        text_columns=3,
    )


def density_table(densities: Sequence[Density]) -> Table:
    """What each run's masks keep, and what leaks through them."""
    rows = []
    for density in densities:
        matrices, run = density.matrices, density.run
        size, kept = (sum(getattr(m, k) for m in matrices) for k in ("size", "kept"))
        values = [matrix.density for matrix in matrices]
        rows.append(
            _row(
                f"{run.number}: {run.name}",
                f"{1 - run.config.sparsity.sparsity:.6f}",
                str(len(matrices)),
                f"{size:,}",
                f"{kept:,}",
                f"{kept / size:.6f}",
                f"{min(values):.6f} to {max(values):.6f}",
                f"{density.exact} of {len(matrices)}",
                str(density.violations),
            )
        )
    return Table(
        (
            *("Run", "Density asked for", "Masked matrices", "Their weights", "Kept"),
            *("Density", "Lowest to highest", "Exact count", "Violations"),
        ),
        tuple(rows),
        "Masks in the newest checkpoint of each run",
    )


def scientific(value: float) -> str:
    """A number as the paper's tables write it.

    Example:
        >>> scientific(1.986e12), scientific(126_183), scientific(40)
        ('1.99e12', '1.26e5', '40')
    """
    if abs(value) < 1e3:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def exaflops(flops: float) -> str:
    """FLOPs in units of 1e18.

    Example:
        >>> exaflops(2.43e18), exaflops(5.15e16), exaflops(3.16e13)
        ('2.43', '0.052', '3.16e-5')
    """
    value = flops / 1e18
    if value >= 0.1:
        return f"{value:.2f}"
    if value >= 0.005:
        return f"{value:.3f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def place_order(group: Group) -> tuple[float, float, str, str]:
    """Sorts rows: by size, sparsity, then way of fine-tuning."""
    sparsity = 2.0 if group.sparsity is None else group.sparsity
    return group.model.num_parameters, sparsity, group.tuning, group.variant


PrintedKey = tuple[str, float]


def _beside(
    groups: Sequence[Group], keys: Iterable[PrintedKey], always: Sequence[str]
) -> list[Group | PrintedKey]:
    """Our groups in order, each of a paper's model followed by the printed row.

    The paper's other rows come last: those of the models that we have, and those
    that are shown in any case, as a reference.
    """
    keys = list(keys)
    places: list[Group | PrintedKey] = []
    ordered = sorted(groups, key=place_order)
    for group, following in zip(ordered, [*ordered[1:], None], strict=True):
        places.append(group)
        key = (paper_model(group.model) or "", _sparsity(group))
        is_last = not following or key != (
            paper_model(following.model) or "",
            _sparsity(following),
        )
        if is_last and key in keys:
            places.append(key)
    ours = {paper_model(group.model) for group in groups}
    rest = [key for key in keys if key not in places]
    return places + [key for key in rest if key[0] in ours or key[0] in always]


def _sparsity(group: Group) -> float:
    return -1.0 if group.sparsity is None else group.sparsity


def _label(group: Group, labels: Labels) -> str:
    label = labels[group.model]
    return f"{label}; {group.variant}" if group.variant else label


def _printed_label(name: str, groups: Sequence[Group]) -> str:
    ours = any(paper_model(group.model) == name for group in groups)
    return f"{MODELS[name]}, printed" + ("" if ours else " (another model)")


def _dataset(task: str) -> str:
    return SCORE_TABLES[task].task if task in SCORE_TABLES else task or "not recorded"


def _mean(group: Group, value: Callable[[RunRecord], float]) -> float:
    summary = group.summary(value)
    assert summary is not None  # a group has a run
    return summary.mean


def _pretraining_flops(groups: Iterable[Group]) -> float | None:
    summary = summarise((r.seed, r.origin.flops) for g in groups for r in g.runs)
    return summary.mean if summary else None


def _cell(summary: Summary | None, decimals: int) -> str:
    return summary.text(decimals) if summary else ABSENT


def _score_cell(summary: Summary | None, score: Score) -> str:
    return _cell(summary and summary.scaled(score.factor), score.decimals)


def _row(*cells: str, printed: bool = False) -> Row:
    return Row(cells, printed)
