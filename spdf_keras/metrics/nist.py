"""NIST: the information of the n-grams that a hypothesis shares with references.

There are two official versions: the Python one of e2e-metrics (`-p`), which published
E2E scores of language models use, and its Perl script. They agree unless a hypothesis
is shorter than its references or than five words. NLTK's `corpus_nist` gives other
values: 7.05 where the programs give 8.58 and 8.61.

Reference:
    [Doddington, 2002](https://dl.acm.org/doi/10.5555/1289189.1289273);
    mteval-v13a-sig.pl and pymteval.py of
    [e2e-metrics](https://github.com/tuetschek/e2e-metrics).
"""

import math
from collections.abc import Sequence

import numpy as np

from spdf_keras.metrics.checks import UndefinedScoreError
from spdf_keras.metrics.counting.ngrams import Tokens, count_ngrams
from spdf_keras.metrics.tokenizers.mteval import tokenize_mteval, tokenize_python

_ORDERS = (1, 2, 3, 4, 5)
# The length penalty is 1/2 if hypotheses have two thirds of the references' words.
_BETA = -math.log(0.5) / math.log(1.5) ** 2


def nist(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Computes NIST as e2e-metrics' Python version does; higher is better, 0 at least.

    The reference length is the sum of each item's mean reference length. A hypothesis
    too short for an order lowers that order's total.

    Args:
        hypotheses: One text per item.
        references: The references of each item, at least one.

    Raises:
        UndefinedScoreError: If an order's total is 0; the program then divides by
            zero.

    Example:
        >>> round(nist(["a b c d e"], [["a b c d e"]]), 6)
        2.321928
    """
    tokens = [*map(tokenize_python, hypotheses)]
    others = [[*map(tokenize_python, texts)] for texts in references]
    totals = [sum(len(t) - n + 1 for t in tokens) for n in _ORDERS]
    if not all(totals):
        order = 1 + totals.index(0)
        raise UndefinedScoreError(
            f"NIST has no value: the hypotheses have no {order}-gram in all, and "
            "pymteval divides by zero."
        )
    length = sum(sum(map(len, texts)) / len(texts) for texts in others)
    sums = _information(tokens, others)
    score = sum(f / total for f, total in zip(sums, totals, strict=True))
    return _length_penalty(totals[0] / length) * score


def nist_perl(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Computes NIST as e2e-metrics' Perl script does; higher is better, 0 at least.

    The reference length is the number of words of all references, divided by the mean
    number of references per item.

    Args:
        hypotheses: One text per item.
        references: The references of each item, at least one.

    Raises:
        UndefinedScoreError: If no reference has a word; the script then divides by
            zero.

    Example:
        >>> nist_perl(["a b c d"], [["a b c d"]])
        2.0
    """
    tokens = [*map(tokenize_mteval, hypotheses)]
    others = [[*map(tokenize_mteval, texts)] for texts in references]
    # The script counts a reference without a word as missing.
    flat = [text for texts in others for text in texts if text]
    if not flat:
        raise UndefinedScoreError(
            "NIST has no value: no reference has a word, and mteval-v13a divides "
            "by zero."
        )
    totals = [sum(max(len(t) - n + 1, 0) for t in tokens) for n in _ORDERS]
    length = sum(map(len, flat)) / (len(flat) / len(tokens))
    sums = _information(tokens, others, zero_is_false=True)
    score = sum(f / max(total, 1) for f, total in zip(sums, totals, strict=True))
    return _length_penalty(totals[0] / length) * score


def _information(
    tokens: Sequence[Tokens],
    others: Sequence[Sequence[Tokens]],
    zero_is_false: bool = False,
) -> list[float]:
    """Sums the information of the shared n-grams of each order over all items.

    Perl tests for words before the last one by the truth of a string, and "0" is
    false: an n-gram that starts with "0" alone counts as a single word.
    """
    corpus = count_ngrams(tokens, others, len(_ORDERS))
    words = np.array([corpus.lengths[corpus.items :].sum()], float)
    shorter, sums = words, []
    for length, order in enumerate(corpus.orders, 1):
        _, ngram, hits = corpus.shared(order)
        references = order.references(corpus.items)
        counts = np.bincount(references.ngram, references.count, len(order.start))
        above = shorter[order.start[ngram]]
        if zero_is_false and length == 2:
            above[order.start[ngram] == corpus.numbers.get("0", -1)] = words
        sums.append(float(hits @ np.log2(above / counts[ngram])))
        shorter = counts
    return sums


def _length_penalty(ratio: float) -> float:
    if ratio <= 0:
        return 0.0
    return math.exp(-_BETA * math.log(ratio) ** 2) if ratio < 1 else 1.0
