"""Finds the class of a method by its name."""

import dataclasses

from spdf_keras.config import SparsityConfig
from spdf_keras.config.methods import added_method
from spdf_keras.errors import InputError
from spdf_keras.sparsity.algorithms.base import SparsityMethod
from spdf_keras.sparsity.algorithms.dynamic import SET, RigL
from spdf_keras.sparsity.algorithms.pruning import GMP, MagnitudeSTE, OneShot
from spdf_keras.sparsity.algorithms.redense import Redense
from spdf_keras.sparsity.algorithms.static import Static

_METHODS: dict[str, type[SparsityMethod]] = {
    "static": Static,
    "set": SET,
    "rigl": RigL,
    "gmp": GMP,
    "one_shot": OneShot,
    "magnitude_ste": MagnitudeSTE,
    "redense": Redense,
}


def settled(config: SparsityConfig) -> SparsityConfig:
    """Returns the settings of masks that stay as training has left them."""
    return dataclasses.replace(config, method="static")


def make_method(config: SparsityConfig, total_steps: int = 0) -> SparsityMethod:
    """Makes the method that settings name.

    Args:
        config: The settings.
        total_steps: Steps of the whole training; 0 if they are not known yet.

    Raises:
        InputError: If its schedule does not fit into the training.
    """
    method = (_METHODS.get(config.method) or added_method(config.method))(
        config, total_steps
    )
    last = max(method.update_steps(), default=0)
    if total_steps and max(last, config.end) > total_steps:
        raise InputError(
            f"`sparsity.end` must be at most the {total_steps:,} steps of the "
            f"training. Received: a schedule of {config.method} to step "
            f"{max(last, config.end):,}. Lower `sparsity.end`, or train longer."
        )
    if total_steps and config.begin > method.end:
        raise InputError(
            f"`sparsity.begin` must be at most its end, step {method.end:,}. Received: "
            f"begin={config.begin}."
        )
    return method
