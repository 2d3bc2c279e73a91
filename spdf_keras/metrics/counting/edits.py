"""Edit distances between many pairs of word sequences at once.

TER tries thousands of shifted hypotheses. Pairs whose hypotheses have equally many
words share one NumPy table, filled a column at a time.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Words = tuple[int, ...]
Pair = tuple[Words, Words]

# Steps of a path, from the start of both texts.
MATCH, SUBSTITUTE, INSERT, DELETE = " ", "S", "I", "D"

_FAR = 16_000  # exceeds every distance that the table holds in 16 bits
_CELLS = 200_000  # cells of one column of all pairs: they fit the processor's cache
_TABLE = 8_000_000  # cells of a table whose columns are all kept
_PADDING = -1


def edit_distances(pairs: Sequence[Pair], beam: int | None = None) -> list[int]:
    """Counts the insertions, deletions and substitutions between two texts.

    Args:
        pairs: Hypothesis and reference, words as numbers from 0 on.
        beam: Drops cells that exceed the best match or substitution of their column
            by more than this; None drops none.

    Example:
        >>> edit_distances([((0, 1, 2), (0, 2)), ((), (5, 6))])
        [1, 2]
    """
    distances = [0] * len(pairs)
    for rows, hypotheses, references in _groups(pairs):
        lengths = [len(pairs[row][1]) for row in rows]
        *_, last = _columns(hypotheses, references, beam)
        ends = last[np.arange(len(rows)), lengths]
        for row, distance in zip(rows, ends.tolist(), strict=True):
            distances[row] = distance
    return distances


def edit_paths(pairs: Sequence[Pair], beam: int | None = None) -> list[str]:
    """Finds the steps from each hypothesis to its reference.

    Among equally short paths, going back from the end, a match or substitution is
    preferred to an insertion, and an insertion to a deletion.

    Args:
        pairs: As in `edit_distances`.
        beam: As in `edit_distances`.

    Example:
        >>> edit_paths([((0, 1, 2), (0, 2, 3)), ((), (5, 6))])
        [' SS', 'DD']
    """
    paths = [""] * len(pairs)
    for rows, hypotheses, references in _groups(pairs, _TABLE):
        table = np.stack([*_columns(hypotheses, references, beam)])
        for place, row in enumerate(rows):
            paths[row] = _trace(table[:, place].tolist(), *pairs[row])
    return paths


def _groups(
    pairs: Sequence[Pair], table: int | None = None
) -> Iterator[tuple[list[int], NDArray[np.int32], NDArray[np.int32]]]:
    """Yields pairs with equally long hypotheses and references of similar length."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for row, (hypothesis, _) in enumerate(pairs):
        by_length[len(hypothesis)].append(row)
    for length, rows in by_length.items():
        rows.sort(key=lambda row: -len(pairs[row][1]))
        while rows:
            longest = len(pairs[rows[0]][1])
            cells = _CELLS if table is None else min(_CELLS, table // (length + 1))
            several = max(1, cells // (longest + 1))
            now, rows = rows[:several], rows[several:]
            hypotheses = np.array([pairs[row][0] for row in now], np.int32)
            references = np.full((len(now), longest), _PADDING, np.int32)
            for place, row in enumerate(now):
                reference = pairs[row][1]
                references[place, : len(reference)] = reference
            yield now, hypotheses.reshape(len(now), length), references


def _columns(
    hypotheses: NDArray[np.int32], references: NDArray[np.int32], beam: int | None
) -> Iterator[NDArray[np.signedinteger]]:
    """Yields the table of all pairs, one column per word of the hypotheses.

    A column is `(pairs, reference words + 1)`. Cells that the beam drops hold `far`,
    which exceeds any distance; the last column keeps all cells.
    """
    count, longest = references.shape
    short = max(longest, hypotheses.shape[1]) < _FAR // 2
    kind, far = (np.int16, _FAR) if short else (np.int32, 2**29)
    steps = np.arange(longest + 1, dtype=kind)
    padding = np.where(references == _PADDING, far // 2, 0).astype(kind)
    column = np.tile(steps, (count, 1))
    for left, words in enumerate(hypotheses.T, 1 - hypotheses.shape[1]):
        yield column
        across = column[:, :-1] + (references != words[:, None]) + padding
        column = column + kind(1)  # an insertion
        np.minimum(column[:, 1:], across, out=column[:, 1:])
        # A deletion adds 1 per step to the least value above.
        column -= steps
        np.minimum.accumulate(column, axis=1, out=column)
        column += steps
        np.minimum(column, kind(far), out=column)
        if beam is not None and left:
            limit = across.min(axis=1, initial=far, keepdims=True) + kind(beam)
            column[column > limit] = far
    yield column


def _trace(table: list[list[int]], hypothesis: Words, reference: Words) -> str:
    i, j = len(reference), len(hypothesis)
    path = []
    while i or j:
        differ = i and j and hypothesis[j - 1] != reference[i - 1]
        if i and j and table[j - 1][i - 1] + differ == table[j][i]:
            path.append(SUBSTITUTE if differ else MATCH)
            i, j = i - 1, j - 1
        elif j and table[j - 1][i] + 1 == table[j][i]:
            path.append(INSERT)
            j -= 1
        else:
            path.append(DELETE)
            i -= 1
    return "".join(reversed(path))
