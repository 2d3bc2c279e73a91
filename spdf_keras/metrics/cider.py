"""CIDEr as the COCO caption evaluation computes it (its CIDEr-D).

`CiderScorer` of pycocoevalcap gives the same values to 4e-15 but loops in Python: it
takes 8 times as long (5,300 texts of E2E), and raises where nothing can be scored.

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

    An n-gram weighs less the more items have it in their references. So an item's
    score depends on the other items, and the score of a single item is 0.

    Args:
        hypotheses: One text per item, its tokens separated by blanks.
        references: The references of each item in the same form, at least one.

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
    # coco-caption takes the number of 2-grams as the length of a text.
    pairs = np.maximum(corpus.lengths - 1, 0)
    apart = pairs - pairs[corpus.item]
    similar = sum(_cosines(corpus, order) for order in corpus.orders)
    similar = similar * np.exp(-(apart**2) / (2 * _SIGMA**2))
    totals = np.bincount(corpus.item, similar)
    counts = np.array([len(texts) for texts in references])
    return (10 / _LONGEST * totals / counts).tolist()


def _cosines(corpus: Corpus, order: Order) -> NDArray[np.float64]:
    """Compares each reference with its hypothesis; hypotheses themselves get 0.

    The weight of an n-gram in the hypothesis is clipped to that in the reference.
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
    is_shared = ours[place] == theirs
    other = weights[is_reference][is_shared]
    product = np.minimum(weights[~is_reference][place[is_shared]], other) * other
    dots = np.bincount(order.text[is_reference][is_shared], product, texts)
    both = norms * norms[corpus.item]
    return np.divide(dots, both, out=np.zeros(texts), where=both > 0)
