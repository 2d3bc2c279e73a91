"""Checks that settings share, and the base class that runs them."""

import dataclasses
import math
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.values import as_float32, as_type, check_floats, check_integers, shown


def check_sparsity(sparsity: float, where: str = "") -> float:
    """Returns `sparsity` if it is a number in `[0, 1)`, else raises `InputError`."""
    try:
        number = as_type("sparsity", float, sparsity)
    except InputError:
        number = math.nan
    if not 0.0 <= number < 1.0:
        raise InputError(
            f"`sparsity` must be in [0, 1). Received: sparsity={shown(sparsity)}"
            f"{where}."
        )
    return float(number)


def check_seed(seed: int, name: str = "seed") -> int:
    """Returns `seed` as an integer if it is one of at least 0, else raises."""
    number = int(as_type(name, int, seed))
    if number < 0:
        raise InputError(f"`{name}` must be at least 0. Received: {name}={number}.")
    check_integers(name, number)
    return number


def check(section: Any, name: str, ok: bool, must: str) -> None:
    """Raises `InputError` unless `ok`: the setting `name` must be `must`."""
    if not ok:
        value = getattr(section, name)
        raise InputError(f"`{name}` must be {must}. Received: {name}={shown(value)}.")


def check_positive(section: Any, *names: str) -> None:
    """Raises `InputError` unless the settings called `names` are above 0."""
    for name in names:
        check(section, name, getattr(section, name) > 0, "positive")


def check_not_negative(section: Any, *names: str) -> None:
    """Raises `InputError` unless the settings called `names` are at least 0."""
    for name in names:
        check(section, name, getattr(section, name) >= 0, "at least 0")


def check_fraction(section: Any, *names: str) -> None:
    """Raises `InputError` unless the settings called `names` are in `[0, 1)`."""
    for name in names:
        value = getattr(section, name)
        is_one = value < 1.0 and as_float32(value) == 1.0
        must = "in [0, 1)" + (" as float32 rounds it" if is_one else "")
        check(section, name, 0.0 <= value < 1.0 and not is_one, must)


class Section:
    """Base class of the settings: it checks the type and the size of each value."""

    def __post_init__(self) -> None:
        types = {f.name: f.type for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        for name, kind in types.items():
            value = as_type(name, kind, getattr(self, name))
            check_integers(name, value)
            object.__setattr__(self, name, value)
        # A setting's own bounds come first, as their error says more than "finite".
        self._check_values()
        for name in types:
            check_floats(name, getattr(self, name))

    def _check_values(self) -> None:
        raise NotImplementedError
