"""TER as tercom 0.7.25 computes it: edits and shifts to the nearest reference.

Its search for shifts is greedy and not symmetric, and its table has a beam, so
other implementations give other values for some long texts. This one follows the
program step by step, for many texts at once.

Reference:
    [Snover et al., 2006](https://aclanthology.org/2006.amta-papers.25);
    [tercom](https://github.com/jhclark/tercom).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from spdf_keras.metrics.checks import UndefinedScoreError
from spdf_keras.metrics.counting.edits import (
    DELETE,
    INSERT,
    MATCH,
    Pair,
    Words,
    edit_distances,
    edit_paths,
)
from spdf_keras.metrics.counting.search import (
    Distances,
    Search,
    Shifts,
    search_shifts,
)
from spdf_keras.metrics.counting.shifts import Shift, perform

_BEAM = 20
_MAX_SHIFT_WORDS = 10
_FARTHEST = 50
# Java's white space; no other counts.
_BLANKS = re.compile(r"[ \t-\r]+")
_TRIMMED = "".join(map(chr, range(33)))


@dataclass(frozen=True)
class Ter:
    """What an item adds to the score.

    Attributes:
        edits: Insertions, deletions, substitutions and shifts to the reference
            that needs fewest.
        words: Mean number of words of the references.
    """

    edits: int
    words: float


@dataclass
class _Search(Search):
    """A search with the last path, and the runs of words that both texts have."""

    path: str = ""
    runs: dict[Words, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.runs = _runs(self.words, self.reference)


def ter(items: Sequence[Ter]) -> float:
    """The score of items together: all edits by all reference words.

    Raises:
        UndefinedScoreError: If no reference has a word.

    Example:
        >>> ter([Ter(1, 6.0), Ter(2, 4.0)])
        0.3
    """
    words = sum(item.words for item in items)
    if not words:
        raise UndefinedScoreError(
            "TER has no value: no reference has a word, and tercom divides by zero."
        )
    return sum(item.edits for item in items) / words


def ter_items(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[Ter]:
    """Scores each item: lower-case, words as blanks separate them.

    Args:
        hypotheses: One text per item.
        references: The references of each item, at least one; no empty text in
            place of a missing one, which would count as a reference without words.

    Example:
        >>> ter_items(["on the mat the cat sat"], [["the cat sat on the mat"]])
        [Ter(edits=1, words=6.0)]
    """
    numbers: defaultdict[str, int] = defaultdict(lambda: len(numbers))

    def words_of(text: str) -> Words:
        words = _BLANKS.split(text.strip(_TRIMMED).lower())
        return tuple(numbers[word] for word in words if word)

    ours = [words_of(text) for text in hypotheses]
    theirs = [[words_of(text) for text in texts] for texts in references]
    pairs = {(w, o): 0 for w, others in zip(ours, theirs, strict=True) for o in others}
    pairs.update(_count_edits([*pairs]))
    return [
        Ter(min(pairs[words, other] for other in others), _mean_length(others))
        for words, others in zip(ours, theirs, strict=True)
    ]


def _mean_length(texts: Sequence[Words]) -> float:
    return sum(map(len, texts)) / len(texts)


def _count_edits(pairs: Sequence[Pair]) -> dict[Pair, int]:
    searches = [_Search(*pair) for pair in pairs]
    search_shifts(
        searches, measure=_measure, candidates=_possible_shifts, choose=_choose
    )
    return {pair: search.edits for pair, search in zip(pairs, searches, strict=True)}


def _measure(searches: Sequence[_Search]) -> None:
    paths = edit_paths([search.pair for search in searches], _BEAM)
    for search, path in zip(searches, paths, strict=True):
        search.path = path
        search.distance = len(path) - path.count(MATCH)


def _choose(
    searches: Sequence[_Search], shifts: Shifts, distances: Distances
) -> Iterator[int | None]:
    _apply_beam(searches, shifts, distances)
    for search, candidates, left in zip(searches, shifts, distances, strict=True):
        better = _better_shifts(search, candidates, left)
        yield better[-1] if better else None


def _better_shifts(
    search: _Search, shifts: Sequence[Shift], distances: Sequence[int]
) -> list[int]:
    """The shifts that are better than those before them, long ones first.

    One that saves only what it costs is taken too, as long as there is no better.
    Shorter ones are not tried if they cannot gain more.
    """
    total = search.distance
    better: list[int] = []
    for row in sorted(range(len(shifts)), key=lambda row: -shifts[row].size):
        gained, most = search.distance - total, 2 * shifts[row].size
        if gained > most or (better and gained == most):
            break
        new = distances[row] + 1
        if new < total or (not better and new == total):
            total = new
            better.append(row)
    return better


def _apply_beam(
    searches: Sequence[_Search], shifts: Shifts, distances: Distances
) -> None:
    """Corrects the distances that the program's beam makes longer.

    It leaves out no cell of a path within the beam's width, and never makes a
    distance smaller, so only a long one that would be taken has to be looked at.
    """
    unsure = {*range(len(searches))}
    seen: set[tuple[int, int]] = set()
    while unsure:
        looked_at = [
            (row, column)
            for row in unsure
            for column in _better_shifts(searches[row], shifts[row], distances[row])
            if distances[row][column] > _BEAM and (row, column) not in seen
        ]
        seen.update(looked_at)
        moved = [
            (perform(searches[row].words, shifts[row][column]), searches[row].reference)
            for row, column in looked_at
        ]
        found = edit_distances(moved, _BEAM)
        unsure = set()
        for (row, column), distance in zip(looked_at, found, strict=True):
            if distances[row][column] != distance:
                distances[row][column] = distance
                unsure.add(row)


def _runs(words: Words, reference: Words) -> dict[Words, list[int]]:
    """Where in the reference each run of words is that the hypothesis has too."""
    known = set(words)
    runs: dict[Words, list[int]] = {}
    for start in range(len(reference)):
        for end in range(start, min(start + _MAX_SHIFT_WORDS + 1, len(reference))):
            if reference[end] not in known:
                break
            runs.setdefault(reference[start : end + 1], []).append(start)
    return runs


def _possible_shifts(search: _Search) -> Iterator[Shift]:
    """Yields the shifts that are worth trying.

    A run must occur in the reference, hold a wrong word here and one there, not be
    there already, and not go farther than 50 words. It is tried after every word
    that is aligned with the run's place in the reference, and after the one before.
    """
    words, runs = search.words, search.runs
    wrong, missing, aligned = _errors(search)
    for start in range(len(words)):
        if not any(
            start != aligned[to]
            and -1 <= aligned[to] - start + _FARTHEST <= 2 * _FARTHEST
            for to in runs.get(words[start : start + 1], ())
        ):
            continue
        for end in range(start, min(start + _MAX_SHIFT_WORDS, len(words))):
            places = runs.get(words[start : end + 1])
            if places is None:
                break
            if True not in wrong[start : end + 1]:
                continue
            movable = False
            for to in places:
                place = aligned[to]
                if start <= place <= end or abs(place - start) > _FARTHEST:
                    continue
                movable = True
                if True in missing[to : to + end - start + 1]:
                    yield from _shifts_to(start, end, to, aligned)
            if not movable:
                break


def _shifts_to(
    start: int, end: int, to: int, aligned: Sequence[int]
) -> Iterator[Shift]:
    size = end - start + 1
    if to == 0:
        yield Shift(start, size, 0)
    for i in range(max(to - 1, 0), to + size):
        after = aligned[i]
        if after != start and (i == to or after != aligned[to]):
            # A place inside the run means as many words to the right.
            place = after + 1 if after < start else after
            yield Shift(start, size, place - size + 1 if after > end else place)


def _errors(search: _Search) -> tuple[list[bool], list[bool], list[int]]:
    """Which words are wrong, which of the reference, and where those are aligned."""
    wrong, missing = [False] * len(search.words), [False] * len(search.reference)
    aligned = [-1] * len(search.reference)
    i = j = -1
    for step in search.path:
        error = step != MATCH
        if step != DELETE:
            j += 1
            wrong[j] = error
        if step != INSERT:
            i += 1
            missing[i], aligned[i] = error, j
    return wrong, missing, aligned
