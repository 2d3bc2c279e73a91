"""The origin of each number of a report: commands, versions, hardware, decoding."""

from collections.abc import Iterable, Iterator, Sequence

from spdf_keras.config import StepConfig
from spdf_keras.report.content.cells import ABSENT, score_table
from spdf_keras.report.content.labels import Labels
from spdf_keras.report.content.quantities import number_ranges, percent
from spdf_keras.report.page.document import (
    Block,
    Bullets,
    Paragraph,
    Row,
    Table,
    code,
    plain,
)
from spdf_keras.report.runs.groups import tuning_of
from spdf_keras.report.runs.records import Evaluation, RunRecord

NOT_RECORDED = "not recorded"


def provenance_blocks(runs: Sequence[RunRecord], labels: Labels) -> Iterator[Block]:
    """A table of the runs, and lists of their commands, versions and hardware."""
    yield Table(
        (
            *("Run", "Folder", "Model", "Kind", "Started from", "Sparsity", "Seed"),
            *("Mask seed", "Fine-tuning seed", "Batch size", "Learning rate", "Steps"),
            *("Pre-training tokens", "Started", "Minutes"),
        ),
        tuple(
            Row(
                (
                    str(run.number),
                    run.name,
                    labels[run.config.model],
                    _kind(run),
                    run.base or ABSENT,
                    percent(run.origin.sparsity),
                    _known(run.origin.seed),
                    _known(run.origin.mask_seed),
                    ABSENT if run.kind == "pretrain" else str(run.config.finetune.seed),
                    str(_settings(run).batch_size),
                    f"{_settings(run).learning_rate:g}",
                    _known(run.steps),
                    _known(run.origin.tokens),
                    run.started[:16].replace("T", " ") or NOT_RECORDED,
                    f"{run.seconds / 60:.1f}" if run.seconds else ABSENT,
                )
            )
            for run in runs
        ),
        "Runs",
        text_columns=5,
    )
    training = sum(run.seconds for run in runs) / 3600
    scoring = sum(e.seconds for run in runs for e in run.evaluations) / 3600
    if training:
        yield Paragraph(
            f"Steps of training took {training:.2f} hours in all, and decoding and "
            f"scoring {scoring:.2f} hours, added up over runs that may have shared a "
            "machine."
        )
    yield Paragraph("Commands; absolute paths in them are shortened:")
    commands = [(run.number, run.conditions.command) for run in runs]
    yield _merged(commands, as_code=True)
    evaluated = [(run, e) for run in runs for e in run.evaluations]
    if evaluated:
        yield Paragraph("Evaluations:")
        yield _merged(
            [(run.number, e.conditions.command) for run, e in evaluated], as_code=True
        )
        decodings = [
            (run.number, describe_decoding(e)) for run, e in evaluated if e.decode
        ]
        if decodings:
            yield Paragraph("Decoding:")
            yield _merged(decodings, as_code=True)
    everything = [(run.number, run.conditions) for run in runs]
    everything += [(run.number, e.conditions) for run, e in evaluated]
    yield Paragraph("Versions:")
    yield _merged([(number, c.versions) for number, c in everything])
    yield Paragraph("Hardware:")
    yield _merged([(number, c.hardware) for number, c in everything])


def _settings(run: RunRecord) -> StepConfig:
    return run.config.train if run.kind == "pretrain" else run.config.finetune


def _known(value: int | None) -> str:
    return ABSENT if value is None else f"{value:,}"


def _kind(run: RunRecord) -> str:
    if run.kind == "pretrain":
        return "pre-training"
    task = score_table(run.task, []).task if run.task else "a task not recorded"
    masks = f", masks {run.masks}" if run.masks else f", {tuning_of(run)}"
    return f"fine-tuning on {task}{masks}"


def _merged(facts: Iterable[tuple[int, str]], as_code: bool = False) -> Bullets:
    """A list of the distinct texts, each with the numbers of its runs."""
    runs_of: dict[str, list[int]] = {}
    for number, text in facts:
        runs_of.setdefault(text, []).append(number)
    items = []
    for text, numbers in runs_of.items():
        shown = (code(text) if as_code else plain(text)) if text else NOT_RECORDED
        runs = "Run" if len(set(numbers)) == 1 else "Runs"
        items.append(f"{runs} {number_ranges(numbers)}: {shown}")
    return Bullets(tuple(items))


def describe_decoding(evaluation: Evaluation) -> str:
    """The `[decode]` settings of an evaluation."""
    return ", ".join(f"{name}={value}" for name, value in evaluation.decode.items())
