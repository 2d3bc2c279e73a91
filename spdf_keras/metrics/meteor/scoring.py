"""METEOR 1.5 for English with `-norm`: scores of segments and of the corpus.

Reference:
    [Denkowski and Lavie, 2014](https://aclanthology.org/W14-3348/).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import NamedTuple

from spdf_keras.metrics.archives import read_member
from spdf_keras.metrics.checks import check_items
from spdf_keras.metrics.meteor.alignment import align, count_chunks
from spdf_keras.metrics.meteor.matching import Match, Text, find_matches
from spdf_keras.metrics.meteor.normalize import ARCHIVE, words_of
from spdf_keras.metrics.meteor.paraphrases import find_paraphrases

# Weight of recall; exponent and weight of the penalty; weight of content words.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
# Weights of exact, stem, synonym and paraphrase matches.
WEIGHTS = (1.0, 0.6, 0.8, 0.6)


@dataclass(frozen=True)
class Meteor:
    """A METEOR score; a fraction without a denominator is 0.

    Attributes:
        score: The corpus score, 0 to 1.
        precision: Weighted fraction of the hypotheses' words that are matched.
        recall: Weighted fraction of the references' words that are matched.
        fragmentation_penalty: 0 (a single chunk) to 0.6.
        segments: The score of each item.
        counts: The counts of each item, whose sums give the corpus score; see
            `score_of_sums`.
    """

    score: float
    precision: float
    recall: float
    fragmentation_penalty: float
    segments: list[float]
    counts: list[list[int]]


def corpus_meteor(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> Meteor:
    """Scores texts as `java -jar meteor-1.5.jar -l en -norm` does.

    An item is scored against its best reference. The corpus score is computed from
    summed counts, so it is not the mean of the items' scores. Texts are normalised
    here; tokenise them beforehand if the protocol does.

    Args:
        hypotheses: One text per item; may be empty.
        references: The references of each item, at least one. An empty text never
            matches, so it may stand for a missing one.

    Raises:
        InputError: If there are no items, an item has no reference, the numbers of
            items differ, or pycocoevalcap with METEOR's tables is not installed.

    Example:
        >>> round(corpus_meteor(["a cheap pub"], [["an inexpensive pub"]]).score, 3)
        0.368
    """
    check_items(hypotheses, references)
    distinct = dict.fromkeys([*hypotheses, *chain.from_iterable(references)])
    words = [words_of(text) for text in distinct]
    phrases, paraphrases = find_paraphrases(words)
    texts = dict(zip(distinct, map(Text, words, phrases), strict=True))

    @cache
    def score(hypothesis: str, reference: str) -> tuple[Rating, Counts]:
        pair = texts[hypothesis], texts[reference]
        counts = _count(*pair, align(find_matches(*pair, paraphrases)))
        return _rate(counts), counts

    rows, segments = [], []
    for hypothesis, candidates in zip(hypotheses, references, strict=True):
        scored = [score(hypothesis, reference) for reference in candidates]
        # Among equal scores, the first reference is taken.
        rating, counts = max(scored, key=lambda pair: pair[0].score)
        segments.append(rating.score)
        rows.append(_as_row(counts))
    total = _from_row([sum(column) for column in zip(*rows, strict=True)])
    return Meteor(*_rate(total), segments, rows)


def score_of_sums(sums: Sequence[float]) -> float:
    """Computes the corpus score from sums of items' `Meteor.counts`."""
    return _rate(_from_row([*map(int, sums)])).score


class Side(NamedTuple):
    """Word counts of one side: of hypotheses or of references.

    Attributes:
        words: Number of all words.
        function_words: Number of words that METEOR lists as function words.
        content: Number of matched content words, by matcher.
        function: Number of matched function words, by matcher.
    """

    words: int
    function_words: int
    content: tuple[int, ...]
    function: tuple[int, ...]


class Counts(NamedTuple):
    """The counts that a score is computed from; they add up over segments."""

    hypothesis: Side
    reference: Side
    chunks: int


class Rating(NamedTuple):
    """The attributes of `Meteor`, computed from any counts."""

    score: float
    precision: float
    recall: float
    fragmentation_penalty: float


def _as_row(counts: Counts) -> list[int]:
    """The counts of an item as numbers that add up."""
    row: list[int] = []
    for side in (counts.hypothesis, counts.reference):
        row += [side.words, side.function_words, *side.content, *side.function]
    # A fully matched segment adds no chunk, although its words count.
    return [*row, 0 if _is_whole(counts) else counts.chunks]


def _from_row(row: Sequence[int]) -> Counts:
    def side(words: int, function_words: int, *matched: int) -> Side:
        half = len(WEIGHTS)
        return Side(words, function_words, matched[:half], matched[half:])

    middle = len(row) // 2
    return Counts(side(*row[:middle]), side(*row[middle:-1]), row[-1])


def _is_whole(counts: Counts) -> bool:
    """Whether all words of both sides are matched in a single chunk."""
    matched = [_matched(side) == side.words for side in counts[:2]]
    return counts.chunks == 1 and all(matched)


def _matched(side: Side) -> int:
    return sum(side.content) + sum(side.function)


def _count(hypothesis: Text, reference: Text, matches: Sequence[Match]) -> Counts:
    return Counts(
        _count_side(hypothesis, [(m.at, m.at_length, m.matcher) for m in matches]),
        _count_side(reference, [(m.start, m.length, m.matcher) for m in matches]),
        count_chunks(matches),
    )


def _count_side(text: Text, matched: list[tuple[int, int, int]]) -> Side:
    content, function = [0] * len(WEIGHTS), [0] * len(WEIGHTS)
    function_words = _function_words()
    for start, length, matcher in matched:
        for word in text.words[start : start + length]:
            (function if word in function_words else content)[matcher] += 1
    count = sum(word in function_words for word in text.words)
    return Side(len(text.words), count, tuple(content), tuple(function))


def _rate(counts: Counts) -> Rating:
    precision = _share(counts.hypothesis)
    recall = _share(counts.reference)
    if not (precision and recall):
        return Rating(0.0, precision, recall, 0.0)
    mean = 1.0 / ((1.0 - ALPHA) / precision + ALPHA / recall)
    matched = (_matched(counts.hypothesis) + _matched(counts.reference)) / 2
    fragmentation = 0.0 if _is_whole(counts) else counts.chunks / matched
    penalty = GAMMA * fragmentation**BETA
    return Rating(max(mean * (1.0 - penalty), 0.0), precision, recall, penalty)


def _share(side: Side) -> float:
    """Returns the weighted matches divided by the weighted words."""
    words = DELTA * (side.words - side.function_words)
    words += (1.0 - DELTA) * side.function_words
    matches = 0.0
    for count, weight in zip(side.content, WEIGHTS, strict=True):
        matches += count * weight * DELTA
    for count, weight in zip(side.function, WEIGHTS, strict=True):
        matches += count * weight * (1.0 - DELTA)
    return matches / words if words else 0.0


@cache
def _function_words() -> frozenset[str]:
    return frozenset(read_member(ARCHIVE, "function/english.words").decode().split())
