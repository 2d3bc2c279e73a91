"""Names by which a report calls models, groups, tasks and runs."""

from collections.abc import Iterable, Mapping, Sequence

from spdf_keras.config import PRESETS, GPTConfig
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.flops import MODELS
from spdf_keras.report.content.quantities import number_ranges
from spdf_keras.report.runs.groups import Group
from spdf_keras.report.runs.records import RunRecord

Labels = Mapping[GPTConfig, str]
TUNING = {
    "none": "none",
    "dense": "dense",
    "sparse": "sparse (masks kept)",
    "lora": "LoRA",
}


def paper_model(model: GPTConfig) -> str | None:
    """The name of the paper's model with these sizes, or None.

    Example:
        >>> paper_model(GPTConfig(12, 12, 768))
        'gpt2_small'
    """
    for name in MODELS:
        if PRESETS[name].model == model:
            return name
    return None


def model_label(model: GPTConfig) -> str:
    """The name of a model in tables: the paper's name, or its size.

    Example:
        >>> model_label(GPTConfig(4, 4, 128, vocabulary_size=2048))
        'GPT, 1.3M'
    """
    name = paper_model(model)
    if name:
        return MODELS[name]
    count = model.num_parameters
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"GPT, {count / size:.1f}{unit}"
    return f"GPT, {count}"


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
        + (", exact GELU" if model.activation == "gelu" else "")
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
