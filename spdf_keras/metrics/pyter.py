"""TER as the library pyter3 has it, for the evaluation of LoRA and WebNLG 2020.

It is not tercom: every run of equal words may be shifted anywhere, an item has the
lowest rate over its references, and the score is the mean over items. Letters keep
their case.

Reference:
    pyter3 0.3, `ter`; `ter_score` of
    [GenerationEval](https://github.com/WebNLG/GenerationEval).
"""

from collections.abc import Iterator, Sequence

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
    distances = edit_distances(pairs)
    searches = [Search(*pair, d) for pair, d in zip(pairs, distances, strict=True)]
    search_shifts(searches, candidates=_possible_shifts, choose=_choose)
    return {
        pair: search.edits / len(search.reference)
        for pair, search in zip(pairs, searches, strict=True)
    }


def _choose(
    searches: Sequence[Search], shifts: Shifts, distances: Distances
) -> Iterator[int | None]:
    """Yields the shift that saves most; of equal ones that to the greatest text."""
    for search, candidates, left in zip(searches, shifts, distances, strict=True):
        least = min(left, default=search.distance)
        if least < search.distance:
            best = [row for row, distance in enumerate(left) if distance == least]
            yield max(best, key=lambda row: perform(search.words, candidates[row]))
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
                size = 1
                following = zip(
                    words[start + 1 :], reference[place + 1 :], strict=False
                )
                for one, other in following:
                    if one != other:
                        break
                    size += 1
                yield Shift(start, size, place)
