"""Finds the words of a hypothesis that METEOR may match with words of a reference.

Reference:
    [Denkowski and Lavie, 2014](https://aclanthology.org/W14-3348/), section 2.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import cache, cached_property, reduce
from typing import NamedTuple

from spdf_keras.metrics.meteor.paraphrases import Phrases
from spdf_keras.metrics.meteor.stemmer import stem
from spdf_keras.metrics.meteor.synonyms import synonym_sets

# The matchers, in the order in which they are applied.
EXACT, STEM, SYNONYM, PARAPHRASE = range(4)


class Match(NamedTuple):
    """Words of a reference matched with words of a hypothesis.

    Attributes:
        start: Index of the first word in the reference.
        length: Number of words in the reference.
        at: Index of the first word in the hypothesis.
        at_length: Number of words in the hypothesis.
        matcher: The matcher that found it.
    """

    start: int
    length: int
    at: int
    at_length: int
    matcher: int


class Text:
    """The words of a text, with look-ups of their places.

    Attributes:
        words: The words.
        keys: Their hashes, by which they are compared.
        phrases: Its phrases that are in the paraphrase table.
    """

    def __init__(self, words: Sequence[str], phrases: Phrases) -> None:
        self.words = tuple(words)
        self.keys = tuple(map(java_hash, words))
        self.phrases = phrases
        self._found: dict[str, list[tuple[int, int]]] = {}

    def equal_to(self, word: str) -> list[tuple[int, int]]:
        """Finds the places of a word, each with the matcher `EXACT`."""
        return [(at, EXACT) for at in self._by_key.get(java_hash(word), ())]

    def like(self, word: str) -> list[tuple[int, int]]:
        """Finds places that match a word, each with its matcher, exact ones first."""
        if word not in self._found:
            key = java_hash(word)
            places = self.equal_to(word)
            for at in self._by_stem.get(java_hash(stem(word)), ()):
                if self.keys[at] != key:
                    places.append((at, STEM))
            if sets := synonym_sets(word):
                for at, others in self._with_synonyms:
                    if self.keys[at] != key and not sets.isdisjoint(others):
                        places.append((at, SYNONYM))
            self._found[word] = places
        return self._found[word]

    # References are read in order only, so these are built for hypotheses alone.
    @cached_property
    def _by_key(self) -> dict[int, list[int]]:
        return _positions(self.keys)

    @cached_property
    def _by_stem(self) -> dict[int, list[int]]:
        return _positions([java_hash(stem(word)) for word in self.words])

    @cached_property
    def _with_synonyms(self) -> list[tuple[int, frozenset[str]]]:
        sets_of_words = enumerate(map(synonym_sets, self.words))
        return [(at, sets) for at, sets in sets_of_words if sets]


def _positions(keys: Sequence[int]) -> dict[int, list[int]]:
    positions: dict[int, list[int]] = {}
    for at, key in enumerate(keys):
        positions.setdefault(key, []).append(at)
    return positions


@cache
def java_hash(word: str) -> int:
    """Hashes a word as Java does.

    METEOR compares hashes instead of words, and some short words share one: "20"
    matches "0n".

    Example:
        >>> java_hash("20") == java_hash("0n")
        True
    """
    data = word.encode("utf-16-le", "surrogatepass")
    units = struct.unpack(f"<{len(data) // 2}H", data)
    return reduce(lambda value, unit: (31 * value + unit) & 0xFFFFFFFF, units, 0)


def find_matches(
    hypothesis: Text, reference: Text, paraphrases: dict[int, dict[int, int]]
) -> list[list[Match]]:
    """Finds all matches of two texts, by the word of the reference where they start.

    As in METEOR, equal texts get exact matches only.

    Args:
        hypothesis: The text to score.
        reference: The text to compare it with.
        paraphrases: The paraphrases of each phrase with their rank.
    """
    same = hypothesis.keys == reference.keys
    places = hypothesis.equal_to if same else hypothesis.like
    matches = [
        [Match(start, 1, at, 1, matcher) for at, matcher in places(word)]
        for start, word in enumerate(reference.words)
    ]
    if not same:
        for match in _phrases(hypothesis.phrases, reference.phrases, paraphrases):
            matches[match.start].append(match)
    return matches


def _phrases(
    hypothesis: Phrases, reference: Phrases, paraphrases: dict[int, dict[int, int]]
) -> Iterator[Match]:
    for start, length, phrase in reference.places:
        for other in _common(paraphrases.get(phrase), hypothesis):
            for at in hypothesis.starts[other]:
                at_length = hypothesis.lengths[other]
                yield Match(start, length, at, at_length, PARAPHRASE)
    # The table is not symmetric, so the other direction finds further matches.
    for at, at_length, phrase in hypothesis.places:
        for other in _common(paraphrases.get(phrase), reference):
            for start in reference.starts[other]:
                length = reference.lengths[other]
                yield Match(start, length, at, at_length, PARAPHRASE)


def _common(ranks: dict[int, int] | None, text: Phrases) -> list[int]:
    """Returns the paraphrases that a text has, sorted by rank."""
    if not ranks:
        return []
    common = ranks.keys() & text.starts.keys()
    return sorted(common, key=ranks.__getitem__) if len(common) > 1 else [*common]
