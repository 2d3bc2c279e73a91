"""The names of sparsity methods, and those that a user has added."""

from typing import Any

from spdf_keras.errors import InputError

METHODS = ("static", "set", "rigl", "gmp", "one_shot", "magnitude_ste", "redense")
"""The methods of this package; `sparsity/algorithms/` has a class for each."""

_added: dict[str, Any] = {}


def method_names() -> tuple[str, ...]:
    """Returns the names that `SparsityConfig.method` takes."""
    return (*METHODS, *_added)


def register_method(name: str, method: Any) -> None:
    """Makes a sparsity method of one's own known by a name.

    Args:
        name: The value of `SparsityConfig.method`.
        method: A subclass of `SparsityMethod`.

    Raises:
        InputError: If another method has that name.
    """
    if name in METHODS or _added.get(name, method) is not method:
        raise InputError(f"`name` must be a new name of a method. Received: '{name}'.")
    _added[name] = method


def added_method(name: str) -> Any:
    """Returns the class that `register_method` got; None for a method of ours."""
    return _added.get(name)
