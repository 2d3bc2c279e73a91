"""Chooses entries by their rank, with a rule for ties; and ranks at random."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Entries = NDArray[np.bool_]


def random_ranks(key: str, size: int) -> NDArray[np.uint64]:
    """Draws a different number for each entry, from a key alone.

    It uses the raw 64-bit stream of Philox, which is an algorithm, not an API, so the
    draws do not depend on a generator of NumPy.

    Args:
        key: Such as `0:block_0/query`.
        size: Number of entries.
    """
    digest = hashlib.sha256(key.encode()).digest()
    words = np.frombuffer(digest[:16], np.dtype("<u8")).astype(np.uint64)
    draws = np.random.Philox(key=words).random_raw(size)
    # The index replaces the lowest bits, since equal draws would break a count.
    index_bits = np.uint64((size - 1).bit_length())
    draws = (draws >> index_bits) << index_bits
    draws |= np.arange(size, dtype=np.uint64)
    return draws


def top(scores: NDArray[Any], count: int, among: Entries | None = None) -> Entries:
    """Chooses the entries of the largest scores; of equal ones, the first in the rows.

    Args:
        scores: Any shape.
        count: How many are chosen; all of `among` if it has fewer.
        among: Which entries can be chosen; all if None.

    Returns:
        A `bool` array of the shape of `scores`.

    Example:
        >>> top(np.array([3, 1, 3, 3]), 2)
        array([ True, False,  True, False])
    """
    chosen = np.zeros(scores.size, np.bool_)
    flat = scores.reshape(-1)
    places = None if among is None else np.flatnonzero(among)
    values = flat if places is None else flat[places]
    if count >= values.size:
        return np.ones(scores.shape, np.bool_) if among is None else among.copy()
    if count <= 0:
        return chosen.reshape(scores.shape)
    border = np.partition(values, values.size - count)[values.size - count]
    above = values > border
    # Of the entries at the border, as many as still fit.
    ties = np.flatnonzero(values == border)[: count - np.count_nonzero(above)]
    above[ties] = True
    chosen[slice(None) if places is None else places] = above
    return chosen.reshape(scores.shape)


def ranks_in_rows(scores: NDArray[Any]) -> NDArray[np.intp]:
    """Returns the rank of each entry in its row, 0 for the largest score.

    Of equal scores, the first has the better rank.

    Args:
        scores: `(rows, entries)`.
    """
    falling = ~scores if scores.dtype.kind == "u" else -scores
    order = np.argsort(falling, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None], axis=1)
    return ranks
