"""How a report orders tasks and names models: as the paper does.

The paper's scores are in the tasks, its Tables 2 and 3 in `spdf_keras.flops`.
"""

from spdf_keras.config import PRESETS, GPTConfig
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.flops import MODELS


def task_order(task: str) -> tuple[int, str]:
    """Sorts tasks as the paper does; others come last."""
    tasks = list(TASKS)
    return tasks.index(task) if task in tasks else len(tasks), task


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
