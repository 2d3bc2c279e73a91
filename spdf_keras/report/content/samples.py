"""Sample outputs of every group, side by side."""

from collections.abc import Iterator, Sequence

from spdf_keras.report.content.cells import score_table
from spdf_keras.report.content.labels import Labels
from spdf_keras.report.content.quantities import percent
from spdf_keras.report.page.document import Block, Row, Table
from spdf_keras.report.runs.groups import Group, by_task_and_split

_SAMPLES = 3
# Articles of the Curation Corpus are longer than this many characters.
_MOST_CHARACTERS = 600
_NAMES = {
    "none": "not fine-tuned",
    "dense": "dense fine-tuning",
    "lora": "fine-tuned by LoRA",
}


def sample_tables(groups: Sequence[Group], labels: Labels) -> Iterator[Block]:
    """A table for each of a few inputs of every task and split."""
    for members in by_task_and_split(groups):
        outputs: dict[str, list[Row]] = {}
        references: dict[str, tuple[str, ...]] = {}
        for group in members:
            pairs = list(zip(group.runs, group.evaluations, strict=True))
            run, evaluation = next((p for p in pairs if p[1].samples), pairs[0])
            for sample in evaluation.samples:
                name = f"{_group_name(group, labels)} (run {run.number})"
                row = Row((name, sample.hypothesis or "(empty)"))
                outputs.setdefault(sample.context, []).append(row)
                references.setdefault(sample.context, sample.references)
        # Inputs that most groups have come first, because they can be compared.
        order = sorted(outputs, key=lambda context: -len(outputs[context]))
        layout = score_table(members[0].task, members)
        for context in order[:_SAMPLES]:
            written = [
                Row((f"reference {number}", text), quoted=True)
                for number, text in enumerate(references[context], 1)
            ]
            yield Table(
                ("From", "Text"),
                (*outputs[context], *written),
                f"{layout.task}, {members[0].split}: {_shortened(context)}",
                text_columns=2,
            )


def _shortened(text: str) -> str:
    """The beginning of a long text, up to a word's end."""
    if len(text) <= _MOST_CHARACTERS:
        return text
    start = text[:_MOST_CHARACTERS].rsplit(" ", 1)[0]
    return f"{start} ... ({len(text):,} characters)"


def _group_name(group: Group, labels: Labels) -> str:
    tuning = _NAMES.get(group.tuning, "masks kept")
    name = f"{labels[group.model]}, {percent(group.sparsity)}, {tuning}"
    return f"{name}; {group.variant}" if group.variant else name
