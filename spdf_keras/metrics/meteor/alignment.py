"""Which words of a hypothesis METEOR aligns with which of a reference.

Matches of words and phrases are collected, and a beam search chooses those that
cover the most, in the fewest chunks. The search is the official one to the
letter: what it counts for which path decides between alignments that look
equally good, and these differ in their score.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from operator import itemgetter
from typing import Any, NamedTuple

from spdf_keras.metrics.meteor.paraphrases import Phrases
from spdf_keras.metrics.meteor.stemmer import stem
from spdf_keras.metrics.meteor.synonyms import synonym_sets

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
BEAM = 40

# A path's rank is one number, the lower the better: first its words, where those
# that are not equal count half, then chunks, then distance.
_CHUNK = 1 << 28
_WORD = 1 << 44


class Match(NamedTuple):
    """Words of a reference that mean some of a hypothesis.

    Attributes:
        start: The first word in the reference.
        length: The number of words there.
        at: The first word in the hypothesis.
        at_length: The number of words there.
        module: Which matcher found it.
    """

    start: int
    length: int
    at: int
    at_length: int
    module: int


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


@dataclass(frozen=True)
class Aligner:
    """Aligns texts whose phrases were looked up together.

    Attributes:
        paraphrases: The paraphrases of each phrase with their rank.
    """

    paraphrases: dict[int, dict[int, int]]

    def align(self, hypothesis: Text, reference: Text) -> list[Match]:
        """Gives the matches of the best alignment, in the reference's order."""
        same = hypothesis.keys == reference.keys
        places = hypothesis.equal_to if same else hypothesis.like
        options = [
            [Match(start, 1, at, 1, module) for at, module in places(word)]
            for start, word in enumerate(reference.words)
        ]
        if not same:
            for match in self._phrases(hypothesis.phrases, reference.phrases):
                options[match.start].append(match)
        certain = _certain(options, len(hypothesis.words))
        return _search(options, certain)

    def _phrases(self, hypothesis: Phrases, reference: Phrases) -> Iterator[Match]:
        for start, length, phrase in reference.places:
            for other in self._common(phrase, hypothesis):
                for at in hypothesis.starts[other]:
                    at_length = hypothesis.lengths[other]
                    yield Match(start, length, at, at_length, PARAPHRASE)
        # The table has a direction, so the other one brings more.
        for at, at_length, phrase in hypothesis.places:
            for other in self._common(phrase, reference):
                for start in reference.starts[other]:
                    length = reference.lengths[other]
                    yield Match(start, length, at, at_length, PARAPHRASE)

    def _common(self, phrase: int, text: Phrases) -> list[int]:
        """Gives the paraphrases of a phrase that a text has, by rank."""
        ranks = self.paraphrases.get(phrase)
        if not ranks:
            return []
        common = ranks.keys() & text.starts.keys()
        return sorted(common, key=ranks.__getitem__) if len(common) > 1 else [*common]


def _certain(options: list[list[Match]], length: int) -> dict[int, Match]:
    """Finds matches whose words have no other."""
    covered, covered_at = [0] * len(options), [0] * length
    for matches in options:
        for start, size, at, at_size, _ in matches:
            for i in range(start, start + size):
                covered[i] += 1
            for i in range(at, at + at_size):
                covered_at[i] += 1
    certain = {}
    for start, matches in enumerate(options):
        if len(matches) == 1:
            match = matches[0]
            here = covered[start : start + match.length]
            there = covered_at[match.at : match.at + match.at_length]
            if max(here) == 1 and max(there) == 1:
                certain[start] = match
    return certain


# Rank; where the hypothesis goes on in the same chunk (-1: nowhere); which words of
# reference and hypothesis are in use, as bits; the chosen matches, last one first.
_Path = tuple[int, int, int, int, Any]
# A match as paths need it: where it goes on, its words as bits, what it adds to the
# rank, its distance, and itself.
_Choice = tuple[int, int, int, int, int, int, Match]


def _search(options: list[list[Match]], certain: dict[int, Match]) -> list[Match]:
    """Chooses among the matches that start at each word, from left to right."""
    used = used_at = 0
    for match in certain.values():
        _, _, bits, bits_at, *_ = _choice(match)
        used |= bits
        used_at |= bits_at
    paths: list[_Path] = [(0, -1, used, used_at, None)]
    for current, matches in enumerate(options):
        if len(paths) > 1:
            paths.sort(key=_RANK)
            del paths[BEAM:]
        if current in certain:
            paths = _with(paths, _choice(certain[current]))
        else:
            paths = _extended(paths, 1 << current, [*map(_choice, matches)])
    paths.sort(key=_RANK)
    # A chunk that is open is counted only now.
    best = min(paths[:BEAM], key=lambda path: path[0] + (path[1] != -1) * _CHUNK)
    chosen, chain = [*certain.values()], best[-1]
    while chain:
        match, chain = chain
        chosen.append(match)
    return sorted(chosen)


_RANK = itemgetter(0)


def _with(paths: list[_Path], choice: _Choice) -> list[_Path]:
    """Adds to paths the one match they cannot do without."""
    at, end, _, _, cost, distance, _ = choice
    cost += distance
    return [
        (
            rank + cost + (_CHUNK if go_on != -1 and go_on != at else 0),
            end,
            used,
            used_at,
            chain,
        )
        for rank, go_on, used, used_at, chain in paths
    ]


def _extended(paths: list[_Path], bit: int, choices: list[_Choice]) -> list[_Path]:
    """Branches paths: each match that is free, or none."""
    following: list[_Path] = []
    for path in paths:
        rank, go_on, used, used_at, chain = path
        if used & bit:  # inside a longer match
            following.append(path)
            continue
        for at, end, bits, bits_at, cost, distance, match in choices:
            if used & bits or used_at & bits_at:
                continue
            total = rank + cost
            if go_on != -1 and go_on != at:
                total += _CHUNK
            longer = total, end, used | bits, used_at | bits_at, (match, chain)
            following.append(longer)
            # The official search adds the distance here, where it counts for the
            # choices that follow and not for the match itself.
            rank += distance
        if go_on != -1:
            rank += _CHUNK
        following.append((rank, -1, used, used_at, chain))
    return following


def _choice(match: Match) -> _Choice:
    start, length, at, at_length, module = match
    # Half a word is cut off, on each side.
    words = length + at_length if module == EXACT else length // 2 + at_length // 2
    bits = ((1 << length) - 1) << start
    bits_at = ((1 << at_length) - 1) << at
    cost = -words * _WORD
    return at, at + at_length, bits, bits_at, cost, abs(start - at), match


def count_chunks(matches: Sequence[Match]) -> int:
    """Counts runs of matches that are neighbours in both texts.

    Args:
        matches: By their place in the reference.
    """
    chunks, behind, behind_at = 0, -1, -1
    for start, length, at, at_length, _ in matches:
        if start != behind or at != behind_at:
            chunks += 1
        behind, behind_at = start + length, at + at_length
    return chunks
