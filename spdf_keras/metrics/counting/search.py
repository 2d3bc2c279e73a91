"""The greedy search for shifts that tercom and pyter3 share.

Each program decides which shifts it tries and which of them it takes.
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
    candidates: Callable[[AnySearch], Iterable[Shift]],
    choose: Callable[[Sequence[AnySearch], Shifts, Distances], Iterable[int | None]],
    measure: Callable[[Sequence[AnySearch]], None] | None = None,
) -> None:
    """Shifts the words of each hypothesis until no shift helps.

    All hypotheses take a step together, so that distances are computed in arrays.

    Args:
        searches: The pairs with their distances; they are updated.
        candidates: Gives the shifts to try.
        choose: Names one of them for each pair, or None where none helps, by the
            exact distances that they leave.
        measure: Sets the distances before each step, for a program whose distances
            are not exact.
    """
    active = searches
    while active:
        if measure:
            measure(active)
        active = [search for search in active if search.may_gain()]
        shifts = [[*candidates(search)] for search in active]
        distances = shifted_distances([search.pair for search in active], shifts)
        chosen = choose(active, shifts, distances)
        shifted = []
        for row, (search, choice) in enumerate(zip(active, chosen, strict=True)):
            if choice is not None:
                search.words = perform(search.words, shifts[row][choice])
                search.distance = distances[row][choice]
                search.shifts += 1
                shifted.append(search)
        active = shifted
