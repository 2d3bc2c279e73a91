"""Which words of a hypothesis METEOR may match with which of a reference.

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

# The matchers, in the order in which they find.
EXACT, STEM, SYNONYM, PARAPHRASE = range(4)


class Match(NamedTuple):
    """Words of a reference that mean some of a hypothesis.

    Attributes:
        start: The first word in the reference.
        length: The number of words there.
        at: The first word in the hypothesis.
        at_length: The number of words there.
        matcher: Which matcher found it.
    """

    start: int
    length: int
    at: int
    at_length: int
    matcher: int


class Text:
    """The words of a text, and where to find them.

    Attributes:
        words: The words.
        keys: Their hashes, by which they are compared.
        phrases: Those that the paraphrase table has.
    """

    def __init__(self, words: Sequence[str], phrases: Phrases) -> None:
        self.words = tuple(words)
        self.keys = tuple(map(java_hash, words))
        self.phrases = phrases
        self._found: dict[str, list[tuple[int, int]]] = {}

    def equal_to(self, word: str) -> list[tuple[int, int]]:
        """Finds where a word is, with the matcher `EXACT`."""
        return [(at, EXACT) for at in self._by_key.get(java_hash(word), ())]

    def like(self, word: str) -> list[tuple[int, int]]:
        """Finds where a word is matched and by which matcher, exact ones first."""
        if word not in self._found:
            key = java_hash(word)
            found = self.equal_to(word)
            for at in self._by_stem.get(java_hash(stem(word)), ()):
                if self.keys[at] != key:
                    found.append((at, STEM))
            if sets := synonym_sets(word):
                for at, others in self._with_synonyms:
                    if self.keys[at] != key and not sets.isdisjoint(others):
                        found.append((at, SYNONYM))
            self._found[word] = found
        return self._found[word]

    # References are only read in order: they never need these.
    @cached_property
    def _by_key(self) -> dict[int, list[int]]:
        return _positions(self.keys)

    @cached_property
    def _by_stem(self) -> dict[int, list[int]]:
        return _positions([java_hash(stem(word)) for word in self.words])

    @cached_property
    def _with_synonyms(self) -> list[tuple[int, frozenset[str]]]:
        found = enumerate(map(synonym_sets, self.words))
        return [(at, sets) for at, sets in found if sets]


def _positions(keys: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for at, key in enumerate(keys):
        found.setdefault(key, []).append(at)
    return found


@cache
def java_hash(word: str) -> int:
    """Hashes a word as Java does.

    METEOR compares hashes instead of words, and short words do share some: "20" is
    as good as "0n".

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
    """Finds all matches of two texts, by the word of the reference they start at.

    Equal texts have exact matches only, which spares the search mistakes.

    Args:
        hypothesis: The text to score.
        reference: The text to compare it with.
        paraphrases: The paraphrases of each phrase with their rank.
    """
    same = hypothesis.keys == reference.keys
    places = hypothesis.equal_to if same else hypothesis.like
    found = [
        [Match(start, 1, at, 1, matcher) for at, matcher in places(word)]
        for start, word in enumerate(reference.words)
    ]
    if not same:
        for match in _phrases(hypothesis.phrases, reference.phrases, paraphrases):
            found[match.start].append(match)
    return found


def _phrases(
    hypothesis: Phrases, reference: Phrases, paraphrases: dict[int, dict[int, int]]
) -> Iterator[Match]:
    for start, length, phrase in reference.places:
        for other in _common(paraphrases.get(phrase), hypothesis):
            for at in hypothesis.starts[other]:
                at_length = hypothesis.lengths[other]
                yield Match(start, length, at, at_length, PARAPHRASE)
    # The table has a direction, so the other one brings more.
    for at, at_length, phrase in hypothesis.places:
        for other in _common(paraphrases.get(phrase), reference):
            for start in reference.starts[other]:
                length = reference.lengths[other]
                yield Match(start, length, at, at_length, PARAPHRASE)


def _common(ranks: dict[int, int] | None, text: Phrases) -> list[int]:
    """Gives the phrases that a text has, by rank."""
    if not ranks:
        return []
    common = ranks.keys() & text.starts.keys()
    return sorted(common, key=ranks.__getitem__) if len(common) > 1 else [*common]
