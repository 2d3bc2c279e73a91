"""Which words of a hypothesis METEOR aligns with which of a reference.

Matches of words and phrases are collected, and a beam search chooses those that
cover the most, in the fewest chunks. The search is the official one to the
letter: what it counts for which path decides between alignments that look
equally good, and these differ in their score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from spdf_keras.metrics.meteor.paraphrases import Phrases
from spdf_keras.metrics.meteor.stemmer import stem
from spdf_keras.metrics.meteor.synonyms import synonym_sets

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
BEAM = 40

# A path's rank is one number, the lower the better: first its words, where those
# that are not equal count half, then chunks, then distance.
_CHUNK = 1 << 32
_WORD = 1 << 48


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

    Args:
        words: The words.
        phrases: Those that the paraphrase table has.
    """

    def __init__(self, words: Sequence[str], phrases: Phrases) -> None:
        self.words = tuple(words)
        self.phrases = phrases
        self._places: dict[str, list[int]] = {}
        self._stems: dict[str, list[int]] = {}
        self._synonyms: list[tuple[int, str, frozenset[str]]] = []
        for i, word in enumerate(self.words):
            self._places.setdefault(word, []).append(i)
            self._stems.setdefault(stem(word), []).append(i)
            if sets := synonym_sets(word):
                self._synonyms.append((i, word, sets))
        self._found: dict[str, list[tuple[int, int]]] = {}

    def places(self, word: str, only_exact: bool) -> list[tuple[int, int]]:
        """Finds where a word is matched and by which matcher, exact ones first."""
        if only_exact:
            return [(at, EXACT) for at in self._places.get(word, ())]
        if word not in self._found:
            found = [(at, EXACT) for at in self._places.get(word, ())]
            for at in self._stems.get(stem(word), ()):
                if self.words[at] != word:
                    found.append((at, STEM))
            if sets := synonym_sets(word):
                for at, other, others in self._synonyms:
                    if other != word and not sets.isdisjoint(others):
                        found.append((at, SYNONYM))
            self._found[word] = found
        return self._found[word]


@dataclass(frozen=True)
class Aligner:
    """Aligns texts whose phrases were looked up together.

    Attributes:
        paraphrases: The paraphrases of each phrase with their rank.
    """

    paraphrases: dict[int, dict[int, int]]

    def align(self, hypothesis: Text, reference: Text) -> list[Match]:
        """Gives the matches of the best alignment, in the reference's order."""
        same = hypothesis.words == reference.words
        options = [
            [Match(i, 1, at, 1, module) for at, module in hypothesis.places(word, same)]
            for i, word in enumerate(reference.words)
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


# Rank; how many words of the reference are behind it; where the hypothesis goes on
# in the same chunk (-1: nowhere); which words of both are in use, as bits; the
# matches it chose, last one first.
_Path = tuple[int, int, int, int, int, Any]


def _search(options: list[list[Match]], certain: dict[int, Match]) -> list[Match]:
    """Chooses among the matches that start at each word, from left to right."""
    used = used_at = 0
    for match in certain.values():
        used |= _bits(match.start, match.length)
        used_at |= _bits(match.at, match.at_length)
    paths: list[_Path] = [(0, 0, -1, used, used_at, None)]
    for current, matches in enumerate(options):
        if len(paths) > 1:
            paths.sort(key=itemgetter(0))
            del paths[BEAM:]
        if current in certain:
            match = certain[current]
            paths = [_with_certain(path, match) for path in paths]
        else:
            choices = [(match, *_costs(match)) for match in matches]
            paths = list(_extended(paths, current, choices))
    if len(paths) > 1:
        paths.sort(key=itemgetter(0))
        del paths[BEAM:]
    best = min(paths, key=lambda path: path[0] + (path[2] != -1) * _CHUNK)
    chosen, chain = [*certain.values()], best[-1]
    while chain:
        match, chain = chain
        chosen.append(match)
    return sorted(chosen)


def _extended(
    paths: list[_Path], current: int, choices: list[tuple[Match, int, int, int, int]]
) -> Iterator[_Path]:
    bit = 1 << current
    for path in paths:
        rank, _, go_on, used, used_at, chain = path
        if used & bit:  # inside a longer match
            yield path
            continue
        for match, bits, bits_at, gain, distance in choices:
            if used & bits or used_at & bits_at:
                continue
            at = match.at
            broken = _CHUNK if go_on not in (-1, at) else 0
            yield (
                rank - gain + broken,
                current + match.length,
                at + match.at_length,
                used | bits,
                used_at | bits_at,
                (match, chain),
            )
            # The official search adds the distance here, where it counts for the
            # choices that follow and not for the match itself.
            rank += distance
        if go_on != -1:
            rank += _CHUNK
        yield rank, current + 1, -1, used, used_at, chain


def _with_certain(path: _Path, match: Match) -> _Path:
    rank, _, go_on, used, used_at, chain = path
    _, _, gain, distance = _costs(match)
    broken = _CHUNK if go_on not in (-1, match.at) else 0
    rank += distance - gain + broken
    end = match.at + match.at_length
    return rank, match.start + match.length, end, used, used_at, chain


def _costs(match: Match) -> tuple[int, int, int, int]:
    """Gives a match's words as bits, what it gains and its distance."""
    start, length, at, at_length, module = match
    # Half a word is cut off, on each side.
    weight = length + at_length if module == EXACT else length // 2 + at_length // 2
    bits, bits_at = _bits(start, length), _bits(at, at_length)
    return bits, bits_at, weight * _WORD, abs(start - at)


def _bits(start: int, length: int) -> int:
    return ((1 << length) - 1) << start


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
