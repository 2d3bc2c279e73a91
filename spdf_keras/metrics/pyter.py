"""TER as the library pyter3 has it, for the evaluation of LoRA and WebNLG 2020.

It is not tercom: every run of equal words may be shifted anywhere, an item has the
lowest rate over its references, and the score is the mean over items. Letters keep
their case.

Reference:
    pyter3 0.3, `ter`; `ter_score` of
    [GenerationEval](https://github.com/WebNLG/GenerationEval).
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from spdf_keras.metrics.counting.edits import Pair, Words, edit_distances
from spdf_keras.metrics.counting.search import (
    Distances,
    Search,
    Shifts,
    search_shifts,
)
from spdf_keras.metrics.counting.shifts import Shift, perform


def pyter_items(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """The rate of each item: edits and shifts by words of the reference.

    Args:
        hypotheses: Tokens with a blank between, one text per item.
        references: The references of each item alike, at least one. One without a
            token, as for a missing reference, gives the rate 1.

    Example:
        >>> pyter_items(["b c a"], [["a b c", "b c a d"]])
        [0.25]
    """
    ours = [text.split() for text in hypotheses]
    theirs = [[text.split() for text in texts] for texts in references]
    vocabulary = {word for text in ours for word in text}
    vocabulary.update(word for texts in theirs for text in texts for word in text)
    # Numbers in the order of the words: of equally good shifts, the greatest
    # text is taken.
    numbers = {word: number for number, word in enumerate(sorted(vocabulary))}

    def number_all(text: Sequence[str]) -> Words:
        return tuple(numbers[word] for word in text)

    items = [
        [(number_all(text), number_all(other)) for other in others]
        for text, others in zip(ours, theirs, strict=True)
    ]
    rates = _rates([*{pair for pairs in items for pair in pairs if pair[1]}])
    return [min(rates.get(pair, 1.0) for pair in pairs) for pairs in items]


def _rates(pairs: Sequence[Pair]) -> dict[Pair, float]:
    searches = [Search(*pair) for pair in pairs]
    search_shifts(
        searches, measure=_measure, candidates=_possible_shifts, choose=_choose
    )
    return {
        pair: search.edits / len(search.reference)
        for pair, search in zip(pairs, searches, strict=True)
    }


def _measure(searches: Sequence[Search]) -> None:
    distances = edit_distances([search.pair for search in searches])
    for search, distance in zip(searches, distances, strict=True):
        search.distance = distance


def _choose(
    searches: Sequence[Search], shifts: Shifts, distances: Distances
) -> Iterator[Shift | None]:
    """Yields the shift that saves most; of equal ones that to the greatest text."""
    for search, candidates, lengths in zip(searches, shifts, distances, strict=True):
        shortest = min(lengths, default=search.distance)
        best = [
            shift
            for shift, length in zip(candidates, lengths, strict=True)
            if length == shortest
        ]
        if shortest < search.distance:
            yield max(best, key=lambda shift: perform(search.words, shift))
        else:
            yield None


def _possible_shifts(search: Search) -> Iterator[Shift]:
    """Yields every run of words that both texts have, to its place in the reference."""
    words, reference = search.pair
    places: dict[int, list[int]] = {}
    for place, word in enumerate(reference):
        places.setdefault(word, []).append(place)
    for start, word in enumerate(words):
        for place in places.get(word, ()):
            if place != start:
                following = zip(words[start:], reference[place:], strict=False)
                equal = takewhile(lambda pair: pair[0] == pair[1], following)
                yield Shift(start, sum(1 for _ in equal), place)
