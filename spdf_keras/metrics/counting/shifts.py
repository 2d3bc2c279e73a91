"""Shifts of words within a text, and the edit distances that many shifts leave."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spdf_keras.metrics.counting.edits import Pair, Words, edit_distances

_BITS = 64
_TOGETHER = 50_000  # shifts per group: their columns fit the processor's cache


class Shift(NamedTuple):
    """A run of words that moves to another place.

    Attributes:
        start: Index of its first word.
        size: Number of its words.
        place: Number of other words in front of it afterwards; a larger number than
            there are puts it at the end.
    """

    start: int
    size: int
    place: int


def perform(words: Words, shift: Shift) -> Words:
    """Returns the words after a shift.

    Example:
        >>> perform((0, 1, 2, 3, 4), Shift(start=3, size=2, place=1))
        (0, 3, 4, 1, 2)
    """
    start, size, place = shift
    run, rest = words[start : start + size], words[:start] + words[start + size :]
    return rest[:place] + run + rest[place:]


def shifted_distances(
    pairs: Sequence[Pair], shifts: Sequence[Sequence[Shift]]
) -> list[list[int]]:
    """Computes the edit distance to the reference that each shift leaves.

    Args:
        pairs: Hypothesis and reference, words as numbers.
        shifts: The shifts of each hypothesis; each is performed on its own.

    Example:
        >>> shifted_distances([((1, 2, 0), (0, 1, 2))], [[Shift(2, 1, 0)]])
        [[0]]
    """
    distances: list[list[int]] = [[] for _ in pairs]
    for rows in _groups(pairs, shifts):
        if len(pairs[rows[0]][1]) > _BITS:
            for row in rows:
                words, reference = pairs[row]
                moved = [(perform(words, shift), reference) for shift in shifts[row]]
                distances[row] = edit_distances(moved)
            continue
        in_order = iter(
            _distances(
                [pairs[row] for row in rows], [shifts[row] for row in rows]
            ).tolist()
        )
        for row in rows:
            distances[row] = [next(in_order) for _ in shifts[row]]
    return distances


def _groups(
    pairs: Sequence[Pair], shifts: Sequence[Sequence[Shift]]
) -> Iterator[list[int]]:
    """Yields pairs with equally long hypotheses and at most `_TOGETHER` shifts."""
    groups: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
    for row, (words, reference) in enumerate(pairs):
        if shifts[row]:
            groups[len(words), len(reference) > _BITS].append(row)
    for rows in groups.values():
        group: list[int] = []
        size = 0
        for row in rows:
            if group and size + len(shifts[row]) > _TOGETHER:
                yield group
                group, size = [], 0
            group.append(row)
            size += len(shifts[row])
        yield group


def _distances(
    pairs: Sequence[Pair], shifts: Sequence[Sequence[Shift]]
) -> NDArray[np.int64]:
    """Computes the distances of all shifts of equally long hypotheses.

    Two bit strings hold a column of the table: where its value rises and where it
    falls by 1 from one word of the reference to the next (Myers, 1999; Hyyrö, 2001).
    """
    masks = np.array([_masks(*pair) for pair in pairs], np.uint64)
    owner = np.repeat(np.arange(len(pairs)), [*map(len, shifts)])
    moves = np.array([shift for some in shifts for shift in some], np.int32)
    start, size, place = moves.T
    place = np.minimum(place, masks.shape[1] - size)
    lengths = np.array([len(reference) for _, reference in pairs])[owner]
    last = np.maximum(lengths - 1, 0).astype(np.uint64)
    one = np.uint64(1)
    ups = np.full(len(moves), np.iinfo(np.uint64).max)
    downs = np.zeros_like(ups)
    distances = lengths.copy()
    for position in range(masks.shape[1]):
        after = position - place
        rest = np.where(after < 0, position, position - size)
        source = np.where(
            (after >= 0) & (after < size), after + start, rest + size * (rest >= start)
        )
        match = masks[owner, source]
        diagonal = (((match & ups) + ups) ^ ups) | match | downs
        rises, falls = downs | ~(diagonal | ups), diagonal & ups
        distances += (rises >> last & one).astype(np.int64)
        distances -= (falls >> last & one).astype(np.int64)
        rises = rises << one | one
        ups = falls << one | ~(diagonal | rises)
        downs = rises & diagonal
    return np.where(lengths, distances, masks.shape[1])


def _masks(words: Words, reference: Words) -> list[int]:
    """Returns the places of each word in the reference, as bits."""
    places: dict[int, int] = {}
    for i, word in enumerate(reference):
        places[word] = places.get(word, 0) | 1 << i
    return [places.get(word, 0) for word in words]
