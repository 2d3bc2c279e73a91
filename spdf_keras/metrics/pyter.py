"""TER as pyter3 0.3 computes it, for the evaluations of LoRA and WebNLG 2020.

It differs from tercom: every run of equal words may be shifted any distance, an item
has the lowest rate over its references, the score is the mean over items, and letters
keep their case. The values equal pyter3's in every bit; pyter3 takes 50 times as long.

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
    """Computes the rate of each item: edits and shifts per word of the reference.

    Args:
        hypotheses: One text per item, its tokens separated by blanks.
        references: The references of each item in the same form, at least one. An
            empty text, which stands for a missing reference, gives the rate 1.

    Returns:
        A rate per item: 0 for equal texts; above 1 where edits outnumber the words.

    Example:
        >>> pyter_items(["b c a"], [["a b c", "b c a d"]])
        [0.25]
    """
    hypothesis_words = [text.split() for text in hypotheses]
    reference_words = [[text.split() for text in texts] for texts in references]
    vocabulary = {word for text in hypothesis_words for word in text}
    vocabulary.update(
        word for texts in reference_words for text in texts for word in text
    )
    # Numbers are in the order of the words, because among equally good shifts pyter3
    # takes the greatest text.
    numbers = {word: number for number, word in enumerate(sorted(vocabulary))}

    def number_all(text: Sequence[str]) -> Words:
        return tuple(numbers[word] for word in text)

    items = [
        [(number_all(text), number_all(other)) for other in others]
        for text, others in zip(hypothesis_words, reference_words, strict=True)
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
    """Yields the shift that saves most; the greatest resulting text breaks ties."""
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
