"""The greedy search of both TER programs: shifts that bring a text to its reference.

Which shifts are tried, and which of them is taken, is each program's own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from spdf_keras.metrics.counting.edits import Pair, Words
from spdf_keras.metrics.counting.shifts import Shift, perform, shifted_distances


@dataclass
class Search:
    """A hypothesis on its way to a reference.

    Attributes:
        words: The hypothesis after the shifts made so far.
        reference: The reference.
        distance: Insertions, deletions and substitutions that remain.
        shifts: Number of shifts made.
    """

    words: Words
    reference: Words
    distance: int = 0
    shifts: int = 0

    @property
    def pair(self) -> Pair:
        """The hypothesis as it is now, and the reference."""
        return self.words, self.reference

    @property
    def edits(self) -> int:
        """All edits: the shifts made and the distance that remains."""
        return self.shifts + self.distance

    def may_gain(self) -> bool:
        """Whether another order of the words could be nearer to the reference."""
        shared = (Counter(self.words) & Counter(self.reference)).total()
        longer = max(len(self.words), len(self.reference))
        return self.distance > longer - shared


AnySearch = TypeVar("AnySearch", bound=Search)
Shifts = Sequence[Sequence[Shift]]
Distances = Sequence[list[int]]


def search_shifts(
    searches: Sequence[AnySearch],
    *,
    measure: Callable[[Sequence[AnySearch]], None],
    candidates: Callable[[AnySearch], Iterable[Shift]],
    choose: Callable[[Sequence[AnySearch], Shifts, Distances], Iterable[Shift | None]],
) -> None:
    """Shifts the words of each hypothesis until no shift helps.

    All hypotheses take a step together, so that distances are computed in arrays.

    Args:
        searches: The pairs; their attributes are updated.
        measure: Sets the distance of each pair.
        candidates: Gives the shifts to try.
        choose: Takes a shift for each pair, or None where none helps, by the exact
            distance that each candidate leaves.
    """
    active = searches
    while active:
        measure(active)
        active = [search for search in active if search.may_gain()]
        shifts = [[*candidates(search)] for search in active]
        distances = shifted_distances([search.pair for search in active], shifts)
        helped = []
        for search, shift in zip(
            active, choose(active, shifts, distances), strict=True
        ):
            if shift is not None:
                search.words = perform(search.words, shift)
                search.shifts += 1
                helped.append(search)
        active = helped
