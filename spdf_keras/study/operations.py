"""How many tokens a pre-training gets for a number of operations."""

import dataclasses

from spdf_keras.config import Config
from spdf_keras.flops import training_flops
from spdf_keras.model.sparsity_plan import SparsityPlan


def with_equal_operations(config: Config, whole: Config, length: int) -> Config:
    """Gives a pre-training the tokens that the operations of another one allow.

    Zeros count as skipped, and masks that change count with their mean sparsity.

    Args:
        config: The settings of the pre-training.
        whole: The settings whose operations it gets.
        length: Tokens per sequence.

    Returns:
        `config` with other `train.tokens`. The last batch is filled, so operations
        agree within one step.

    Example:
        >>> dense = Config(train=dataclasses.replace(Config().train, tokens=2_500_000))
        >>> masks = dataclasses.replace(dense.sparsity, sparsity=0.75)
        >>> sparse = dataclasses.replace(dense, sparsity=masks)
        >>> with_equal_operations(sparse, dense, 2048).train.tokens
        4325018
    """
    budget = whole.train.total_steps(whole.model, length) * _step_flops(whole, length)
    for _ in range(5):  # the mean sparsity depends a little on the number of steps
        steps = budget / _step_flops(config, length)
        tokens = round(steps * config.train.batch_size * length)
        train = dataclasses.replace(config.train, tokens=tokens)
        config = dataclasses.replace(config, train=train)
    return config


def _step_flops(config: Config, length: int) -> float:
    total = config.train.total_steps(config.model, length)
    average = SparsityPlan(config.model, config.sparsity, total).average
    return config.train.batch_size * training_flops(config.model, length, average)
