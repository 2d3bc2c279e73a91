"""TER as the library pyter3 has it, for the evaluation of LoRA and WebNLG 2020.

It is not tercom: every run of equal words may be shifted anywhere, an item has the
lowest rate over its references, and the score is the mean over items. Letters keep
their case.

Reference:
    pyter3 0.3, `ter`; `ter_score` of
    [GenerationEval](https://github.com/WebNLG/GenerationEval).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spdf_keras.metrics.counting.edits import Pair, Words, edit_distances
from spdf_keras.metrics.counting.shifts import Shift, perform, shifted_distances


@dataclass
class _Search:
    """The state of one pair: a hypothesis on its way to a reference."""

    words: Words
    reference: Words
    distance: int
    shifts: int = 0

    def may_gain(self) -> bool:
        """Whether another order of the words could be nearer to the reference."""
        shared = (Counter(self.words) & Counter(self.reference)).total()
        longer = max(len(self.words), len(self.reference))
        return self.distance > longer - shared


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
    searches = [_Search(*pair, d) for pair, d in zip(pairs, distances, strict=True)]
    active: Sequence[_Search] = searches
    while active := [search for search in active if search.may_gain()]:
        active = _shift_each(active)
    return {
        pair: (search.shifts + search.distance) / len(pair[1])
        for pair, search in zip(pairs, searches, strict=True)
    }


def _shift_each(searches: Sequence[_Search]) -> list[_Search]:
    """Takes the best shift of each; returns those where it is nearer."""
    pairs = [(search.words, search.reference) for search in searches]
    shifts = [[*_possible_shifts(*pair)] for pair in pairs]
    helped = []
    for search, some, found in zip(
        searches, shifts, shifted_distances(pairs, shifts), strict=True
    ):
        nearest = min(found, default=search.distance)
        if nearest < search.distance:
            search.words = max(
                perform(search.words, shift)
                for shift, distance in zip(some, found, strict=True)
                if distance == nearest
            )
            search.distance = nearest
            search.shifts += 1
            helped.append(search)
    return helped


def _possible_shifts(words: Words, reference: Words) -> Iterator[Shift]:
    """Every run of words that both have, to its place in the reference."""
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
