"""CIDEr as the COCO caption evaluation has it (its CIDEr-D).

Reference:
    [Vedantam et al., 2015](https://arxiv.org/abs/1411.5726); `cider_scorer.py` of
    [coco-caption](https://github.com/tylin/coco-caption).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from spdf_keras.metrics.checks import UndefinedScoreError
from spdf_keras.metrics.ngrams import NGram, count_ngrams

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0


@dataclass(frozen=True)
class _Vector:
    """Weighted n-grams of a text, by order.

    Attributes:
        weights: Frequency x inverse document frequency of each n-gram.
        norms: Euclidean lengths of `weights`.
        pairs: Number of 2-grams, which is what the program takes for the length.
    """

    weights: tuple[dict[NGram, float], ...]
    norms: tuple[float, ...]
    pairs: int


def cider(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Scores each item; the score of a case is the mean.

    The items are one another's documents: an n-gram that the references of many
    items have weighs less. So an item's score depends on the others, and that of
    a single item is 0.

    Args:
        hypotheses: Tokens with a blank between, one text per item.
        references: The references of each item alike, at least one.

    Returns:
        A value per item, 0 to 10.

    Raises:
        UndefinedScoreError: If no reference has a token; the program then fails.

    Example:
        >>> [round(s, 3) for s in cider(["a b", "c"], [["a b"], ["d", "c"]])]
        [5.0, 1.25]
    """
    documents: Counter[NGram] = Counter()
    counted = []
    for texts in references:
        counts = [_count(text) for text in texts]
        documents.update({ngram for one in counts for order in one for ngram in order})
        counted.append(counts)
    if not documents:
        raise UndefinedScoreError(
            "CIDEr has no value: no reference has a token, and the COCO caption "
            "evaluation fails."
        )
    rarest = math.log(len(references))
    idf = {ngram: rarest - math.log(count) for ngram, count in documents.items()}
    scores = []
    for hypothesis, others in zip(hypotheses, counted, strict=True):
        vector = _weigh(_count(hypothesis), idf, rarest)
        similar = sum(_similarity(vector, _weigh(one, idf, rarest)) for one in others)
        scores.append(10 * similar / len(_ORDERS) / len(others))
    return scores


def _count(text: str) -> list[Counter[NGram]]:
    tokens = text.split()
    return [count_ngrams(tokens, order) for order in _ORDERS]


def _weigh(
    counts: Sequence[Counter[NGram]], idf: dict[NGram, float], rarest: float
) -> _Vector:
    weights = tuple(
        {ngram: n * idf.get(ngram, rarest) for ngram, n in order.items()}
        for order in counts
    )
    norms = tuple(math.sqrt(sum(w * w for w in order.values())) for order in weights)
    return _Vector(weights, norms, counts[1].total())


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """Cosines of all orders, each n-gram at most as often as in the reference."""
    total = 0.0
    for order in range(len(_ORDERS)):
        ours, theirs = hypothesis.weights[order], reference.weights[order]
        dot = 0.0
        for ngram, weight in ours.items():
            other = theirs.get(ngram)
            if other is not None:
                dot += min(weight, other) * other
        norm = hypothesis.norms[order] * reference.norms[order]
        total += dot / norm if norm else dot
    apart = hypothesis.pairs - reference.pairs
    return total * math.exp(-(apart**2) / (2 * _SIGMA**2))
