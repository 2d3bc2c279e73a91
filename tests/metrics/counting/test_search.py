from collections.abc import Iterator, Sequence

import pytest

from spdf_keras.metrics.counting.edits import edit_distances
from spdf_keras.metrics.counting.search import Search, search_shifts
from spdf_keras.metrics.counting.shifts import Shift


def all_shifts(search: Search) -> list[Shift]:
    size = len(search.words)
    return [Shift(start, 1, place) for start in range(size) for place in range(size)]


def nearest(
    searches: Sequence[Search],
    shifts: Sequence[Sequence[Shift]],
    distances: Sequence[list[int]],
) -> Iterator[int | None]:
    for search, left in zip(searches, distances, strict=True):
        best = min(range(len(left)), key=left.__getitem__)
        yield best if left[best] < search.distance else None


@pytest.mark.parametrize("is_measured", [False, True])
def test_words_are_shifted_until_no_shift_helps(is_measured: bool) -> None:
    pairs = [((1, 2, 0), (0, 1, 2)), ((0, 1), (0, 2)), ((4, 5), (5, 4)), ((), (1,))]
    measured: list[int] = []

    def measure(searches: Sequence[Search]) -> None:
        measured.append(len(searches))
        distances = edit_distances([search.pair for search in searches])
        for search, distance in zip(searches, distances, strict=True):
            search.distance = distance

    searches = [Search(*pair) for pair in pairs]
    if is_measured:
        search_shifts(searches, candidates=all_shifts, choose=nearest, measure=measure)
        assert measured == [4, 2]  # the two that a shift has helped
    else:
        measure(searches)
        search_shifts(searches, candidates=all_shifts, choose=nearest)
    assert [(search.shifts, search.distance) for search in searches] == [
        (1, 0),
        (0, 1),
        (1, 0),
        (0, 1),
    ]
    assert [search.edits for search in searches] == [1, 1, 1, 1]
    assert [search.words for search in searches] == [(0, 1, 2), (0, 1), (5, 4), ()]
