"""CIDEr as the COCO caption evaluation has it (its CIDEr-D).

Reference:
    [Vedantam et al., 2015](https://arxiv.org/abs/1411.5726); `cider_scorer.py` of
    [coco-caption](https://github.com/tylin/coco-caption).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spdf_keras.metrics.checks import UndefinedScoreError
from spdf_keras.metrics.counting.ngrams import Corpus, Order, count_ngrams

_LONGEST = 4
_SIGMA = 6.0


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
    tokens = [text.split() for text in hypotheses]
    others = [[text.split() for text in texts] for texts in references]
    corpus = count_ngrams(tokens, others, _LONGEST)
    if not corpus.lengths[corpus.items :].any():
        raise UndefinedScoreError(
            "CIDEr has no value: no reference has a token, and the COCO caption "
            "evaluation fails."
        )
    # The program takes the number of 2-grams for the length.
    pairs = np.maximum(corpus.lengths - 1, 0)
    apart = pairs - pairs[corpus.item]
    similar = sum(_cosines(corpus, order) for order in corpus.orders)
    similar = similar * np.exp(-(apart**2) / (2 * _SIGMA**2))
    totals = np.bincount(corpus.item, similar)
    counts = np.array([len(texts) for texts in references])
    return (10 / _LONGEST * totals / counts).tolist()


def _cosines(corpus: Corpus, order: Order) -> NDArray[np.float64]:
    """Of each text with its item's hypothesis; 0 of the hypotheses themselves.

    An n-gram of the hypothesis weighs at most what it weighs in the reference.
    """
    texts, kinds = len(corpus.item), len(order.start)
    keys = corpus.keys(order)
    is_reference = order.text >= corpus.items
    documents = np.bincount(np.unique(keys[is_reference]) % max(kinds, 1), None, kinds)
    idf = np.log(corpus.items) - np.log(np.maximum(documents, 1))
    weights = order.count * idf[order.ngram]
    norms = np.sqrt(np.bincount(order.text, weights**2, texts))
    ours, theirs = keys[~is_reference], keys[is_reference]
    if not len(ours):
        return np.zeros(texts)
    place = np.minimum(np.searchsorted(ours, theirs), len(ours) - 1)
    found = ours[place] == theirs
    other = weights[is_reference][found]
    product = np.minimum(weights[~is_reference][place[found]], other) * other
    dots = np.bincount(order.text[is_reference][found], product, texts)
    both = norms * norms[corpus.item]
    return np.divide(dots, both, out=np.zeros(texts), where=both > 0)
