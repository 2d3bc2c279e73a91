"""Names by which a report calls models, groups, tasks and runs."""

from collections.abc import Iterable, Mapping, Sequence

from spdf_keras.config import GPTConfig
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.flops import MODELS
from spdf_keras.report.content.quantities import number_ranges
from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.printed import model_label, paper_model
from spdf_keras.report.runs.records import RunRecord

Labels = Mapping[GPTConfig, str]
TUNING = {"none": "none", "dense": "dense", "sparse": "sparse (masks kept)"}


def model_labels(runs: Iterable[RunRecord]) -> dict[GPTConfig, str]:
    """A name for each model size; no two are equal."""
    models = list(dict.fromkeys(run.config.model for run in runs))
    plain = [model_label(model) for model in models]
    return {
        model: label if plain.count(label) == 1 else f"{label} ({_sizes(model)})"
        for model, label in zip(models, plain, strict=True)
    }


def _sizes(model: GPTConfig) -> str:
    return (
        f"{model.num_layers} x {model.hidden_dim}, {model.num_heads} heads, "
        f"{model.vocabulary_size} tokens, context {model.max_sequence_length}"
    )


def group_label(group: Group, labels: Labels) -> str:
    """The name of a group in a row: its model and its variant."""
    name = labels[group.model]
    return f"{name}; {group.variant}" if group.variant else name


def printed_label(name: str, groups: Sequence[Group]) -> str:
    """The name of a row of the paper, which stands beside `groups`."""
    is_ours = any(paper_model(group.model) == name for group in groups)
    return f"{MODELS[name]}, printed" + ("" if is_ours else " (another model)")


def dataset_name(task: str) -> str:
    """The paper's name for a task."""
    return TASKS[task].table.task if task in TASKS else task or "not recorded"


def run_numbers(runs: Iterable[RunRecord]) -> str:
    """Runs by their numbers in the report, such as `1-3, 5`."""
    return number_ranges(run.number for run in runs)
