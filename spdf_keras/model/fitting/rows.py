"""Rows of numbers that a user holds in memory, as one array."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.errors import InputError


def rows_of(name: str, value: Any) -> tuple[Any, np.ndarray | None]:
    """Returns an array of rows, and their lengths if these differ.

    TensorFlow computes nothing here, so that generators may be in processes of their
    own. An array on the disk (h5py's, say) stays there.

    Args:
        name: The argument's name in messages.
        value: An array or tensor, a list of rows, a ragged tensor, or one of these in
            a dict or list of one; or None.

    Example:
        >>> array, lengths = rows_of("token_ids", [[1, 2], [3]])
        >>> array.tolist(), lengths.tolist()
        ([[1, 2], [3, 0]], [2, 1])

    Raises:
        InputError: If it is none of these.
    """
    if isinstance(value, dict):
        value = only_tensor(value)
    if isinstance(value, list | tuple) and len(value) == 1 and np.ndim(value[0]) == 2:
        value = value[0]
    if value is None or is_on_disk(value):
        return value, None
    if isinstance(value, tf.RaggedTensor):
        return value.to_tensor().numpy(), value.row_lengths().numpy()
    is_object = isinstance(value, np.ndarray) and value.dtype == object
    if isinstance(value, list | tuple) or is_object:
        rows = [np.asarray(row) for row in value]
        return _stacked(name, rows)
    try:
        return np.asarray(value), None
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"`{name}` must be an array (batch, length), or a dataset, generator or "
            f"Sequence of batches. Received: {type(value).__name__}."
        ) from error


def _stacked(name: str, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    if len({row.shape for row in rows}) <= 1:
        return np.array(rows), None
    if any(row.ndim != 1 for row in rows):
        shapes = sorted({row.shape for row in rows})
        raise InputError(
            f"`{name}` must be rows of numbers. Received: rows of the shapes "
            f"{', '.join(map(str, shapes[:4]))}."
        )
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), lengths.max()), np.result_type(*rows))
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded, lengths


def only_tensor(value: Any) -> Any:
    """Returns the one tensor of a structure such as `{"token_ids": tensor}`; or None.

    Raises:
        InputError: If there are several.
    """
    if not isinstance(value, dict | list | tuple):
        return value
    values = list(value.values()) if isinstance(value, dict) else list(value)
    if len(values) != 1:
        names = ", ".join(map(str, value)) if isinstance(value, dict) else len(values)
        raise InputError(
            "A GPT has one input, `token_ids`, and one output: x, labels and "
            f"sample_weight must be one tensor each. Received: several ({names})."
        )
    return only_tensor(values[0])


def is_on_disk(value: Any) -> bool:
    """Whether it is an array that Keras reads batch by batch, such as h5py's."""
    needed = ("shape", "dtype", "__getitem__", "__len__")
    known = isinstance(value, np.ndarray | tf.Tensor | tf.Variable | tf.RaggedTensor)
    known = known or hasattr(value, "numpy") or hasattr(value, "to_numpy")
    return not known and all(hasattr(value, attribute) for attribute in needed)


def is_sequence(value: Any) -> bool:
    """Whether it gives batches by index, as Keras 3's `PyDataset` does."""
    plain = isinstance(value, str | bytes | Sequence | dict) or hasattr(value, "shape")
    return not plain and hasattr(value, "__getitem__") and hasattr(value, "__len__")
