"""Checks the types of settings and the size of their numbers."""

import math
import struct
import typing
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from spdf_keras.errors import InputError

# Shapes and step counters hold integers up to this; token counts and seeds hold larger.
_LARGEST, _LARGEST_COUNT = 2**31 - 1, 2**63 - 1
_COUNTS = ("tokens", "warmup_tokens", "seed", "seeds", "mask_seed")
# Training computes in float32, where numbers closer to zero than this become zero.
_SMALLEST_FLOAT, _LARGEST_FLOAT = 1.1754944e-38, 3.4028235e38


def as_type(name: str, kind: Any, value: Any) -> Any:
    """Returns a value as the type of a setting.

    NumPy's scalars are numbers too, an integer is also a float, and a float without a
    fraction, such as 1e6, is also an integer.

    Args:
        name: Name of the setting, for the error.
        kind: `int`, `float`, `bool`, `str`, a tuple of one of them, or `bool | str`.
        value: The user's value.

    Raises:
        InputError: If it is of another type.

    Example:
        >>> as_type("tokens", int, 1e6), as_type("rates", tuple[float, ...], [1, 2])
        (1000000, (1.0, 2.0))
    """
    # Arrays and scalars of NumPy, which is not imported here.
    if hasattr(value, "tolist") and getattr(value, "ndim", 2) < 2:
        value = value.tolist()
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(value, list | tuple):
            must = f"a list of {inner.__name__}"
            raise InputError(f"`{name}` must be {must}. Received: {shown(value)}.")
        return tuple(as_type(name, inner, item) for item in value)
    if kind == bool | str:
        if not isinstance(value, kind):
            raise InputError(f"`{name}` must be bool or str. Received: {shown(value)}.")
        return value
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if kind is float and is_number:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    whole = isinstance(value, Integral) or (is_number and math.isfinite(value))
    if kind is int and is_number and whole and value == int(value):
        return int(value)
    if type(value) is not kind:
        raise InputError(f"`{name}` must be {kind.__name__}. Received: {shown(value)}.")
    return value


def check_integers(name: str, value: Any) -> None:
    """Refuses integers that are too large for shapes and counters, in tuples too.

    Args:
        name: The setting.
        value: A value from `as_type`; values without integers pass.

    Raises:
        InputError: If it holds such an integer.
    """
    largest = _LARGEST_COUNT if name in _COUNTS else _LARGEST
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int) and abs(number) > largest:
            raise InputError(
                f"`{name}` must be an integer of size {largest} at most. Received: "
                f"{name}={shown(number)}."
            )


def check_floats(name: str, value: Any) -> None:
    """Refuses floats that are not finite or out of float32's range, in tuples too.

    Args:
        name: The setting.
        value: A value from `as_type`; values without floats pass.

    Raises:
        InputError: If it holds such a float.
    """
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, float):
            continue
        if not math.isfinite(number):
            raise InputError(f"`{name}` must be finite. Received: {name}={number}.")
        if number and not _SMALLEST_FLOAT <= abs(number) <= _LARGEST_FLOAT:
            raise InputError(
                f"`{name}` must be 0 or of a size from 1.2e-38 to 3.4e38, as float32 "
                f"has it. Received: {name}={number}."
            )


def as_float(name: str, value: Any) -> float:
    """Returns a number as a float in float32's range; see `as_type`, `check_floats`."""
    number: float = as_type(name, float, value)
    check_floats(name, number)
    return number


def as_float32(number: float) -> float:
    """Returns the nearest number of float32, such as 1.0 for 0.99999999."""
    try:
        return float(struct.unpack("f", struct.pack("f", number))[0])
    except OverflowError:
        return math.copysign(math.inf, number)


def shown(value: Any) -> str:
    """Returns a value as text for a message; a long one is cut."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a number of more than 4,300 digits"
    return text if len(text) <= 80 else text[:77] + "..."


def listed(names: Sequence[str]) -> str:
    """Returns names as a sentence has them.

    Example:
        >>> listed(["BLEU"]), listed(["BLEU", "NIST", "CIDEr"])
        ('BLEU', 'BLEU, NIST and CIDEr')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
