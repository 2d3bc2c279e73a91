"""BLEU of four official programs, and sacreBLEU's with its signature.

The programs differ in tokenisation, case, reference length, and in the value of an
order of n-grams without a match. Each has a function that counts every item and one
that scores added counts. sacreBLEU does not equal them all: it gives 0 where mteval
smooths, and it splits words at blanks beyond ASCII, which the scripts of Moses do not.

Reference:
    [Papineni et al., 2002](https://aclanthology.org/P02-1040); mteval-v13a.pl as
    changed in [e2e-metrics](https://github.com/tuetschek/e2e-metrics), its
    pymteval.py; multi-bleu.perl and multi-bleu-detok.perl of
    [Moses](https://github.com/moses-smt/mosesdecoder).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spdf_keras.metrics.checks import UndefinedScoreError, check_items
from spdf_keras.metrics.counting.ngrams import Tokens, closest_length, count_ngrams
from spdf_keras.metrics.tokenizers.mteval import (
    lower_ascii,
    tokenize_detok,
    tokenize_mteval,
    tokenize_python,
    words_in_bytes,
)

_ORDERS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Bleu:
    """A BLEU score and its conditions.

    Attributes:
        bleu: 0 to 100.
        signature: sacreBLEU's signature: version, tokenisation, case, smoothing.
    """

    bleu: float
    signature: str


@dataclass(frozen=True)
class Counts:
    """What BLEU is computed from; counts of items add up.

    Attributes:
        hits: Matching n-grams of the orders 1 to 4.
        lengths: By order, words of the hypotheses minus `order - 1` per hypothesis;
            a short hypothesis adds a negative number.
        totals: By order, n-grams of the hypotheses; a short hypothesis adds 0.
        reference_length: Words of the references closest in length.
    """

    hits: tuple[int, ...]
    lengths: tuple[int, ...]
    totals: tuple[int, ...]
    reference_length: int


def _count(
    hypotheses: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    closest: Sequence[int],
) -> list[Counts]:
    """Counts each item; `closest` holds the length of its closest reference."""
    corpus = count_ngrams(hypotheses, references, len(_ORDERS))
    hits = []
    for order in corpus.orders:
        item, _, shared = corpus.shared(order)
        hits.append(np.bincount(item, shared, corpus.items).astype(int).tolist())
    counts = []
    for text, matches, length in zip(
        hypotheses, zip(*hits, strict=True), closest, strict=True
    ):
        lengths = tuple(len(text) - n + 1 for n in _ORDERS)
        totals = tuple(max(left, 0) for left in lengths)
        counts.append(Counts(matches, lengths, totals, length))
    return counts


def _closest(
    hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> list[int]:
    return [
        closest_length(len(text), [*map(len, others)])
        for text, others in zip(hypotheses, references, strict=True)
    ]


def add(counts: Iterable[Counts]) -> Counts:
    """Adds up the counts of several items."""
    items = list(counts)

    def total(rows: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
        return tuple(map(sum, zip(*rows, strict=True)))

    return Counts(
        total(item.hits for item in items),
        total(item.lengths for item in items),
        total(item.totals for item in items),
        sum(item.reference_length for item in items),
    )


def mteval_counts(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[Counts]:
    """Counts each item as e2e-metrics' Perl script does: 13a tokens, A-Z lower-case."""
    tokens = [tokenize_mteval(text) for text in hypotheses]
    others = [[*map(tokenize_mteval, texts)] for texts in references]
    # The script counts references without a word as missing, except the first one.
    counted = [[o for i, o in enumerate(texts) if o or not i] for texts in others]
    return _count(tokens, others, _closest(tokens, counted))


def mteval_bleu(counts: Counts) -> float:
    """Computes BLEU, 0 to 1, as e2e-metrics' Perl script does, with its smoothing.

    The k-th order without a match counts 1/2^k matches; an order for which every
    hypothesis is too short has a precision of 1.

    Example:
        >>> items = mteval_counts(["Vaults"], [["The Vaults is a pub."]])
        >>> round(mteval_bleu(add(items)), 6)
        0.006738
    """
    if not counts.totals[0]:
        return 0.0
    score, smooth = 0.0, 1
    for hits, total in zip(counts.hits, counts.totals, strict=True):
        if not total:
            continue
        if not hits:
            smooth *= 2
        score += math.log(hits / total if hits else 1 / (smooth * total))
    penalty = min(0.0, 1 - counts.reference_length / counts.totals[0])
    return math.exp(score / 4) * math.exp(penalty)


def pymteval_counts(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[Counts]:
    """Counts each item as e2e-metrics' Python version does."""
    tokens = [*map(tokenize_python, hypotheses)]
    others = [[*map(tokenize_python, texts)] for texts in references]
    return _count(tokens, others, _closest(tokens, others))


def pymteval_bleu(counts: Counts, smoothing: float = 0.0) -> float:
    """Computes BLEU, 0 to 1, as e2e-metrics' Python version does (its option `-p`).

    A hypothesis too short for an order lowers that order's total. An order without a
    match counts 1e-15 matches, and one without an n-gram 1e-9 n-grams.

    Args:
        counts: Counts of the items, added up.
        smoothing: Added to matches and totals; the program's `sentBLEU` uses 1.

    Example:
        >>> items = pymteval_counts(["The Vaults is a pub"], [["The Vaults is a pub."]])
        >>> round(pymteval_bleu(add(items)), 6)
        0.818731
    """
    length, score = counts.lengths[0], 0.0
    for hits, total in zip(counts.hits, counts.lengths, strict=True):
        score += math.log(max(hits + smoothing, 1e-15) / max(total + smoothing, 1e-9))
    ratio = counts.reference_length / (length or 1e-5)
    penalty = math.exp(1 - ratio) if length <= counts.reference_length else 1.0
    return penalty * math.exp(score / 4)


def multi_bleu_counts(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Callable[[str], list[str]],
) -> list[Counts]:
    """Counts each item as the scripts of Moses do, with a tokenisation of theirs.

    Args:
        hypotheses: One text per item.
        references: Equally many per item: for the script an empty text is a
            reference of length 0, which moves the brevity penalty.
        tokenize: One of `MULTI_BLEU`.
    """
    tokens = [*map(tokenize, hypotheses)]
    others = [[*map(tokenize, texts)] for texts in references]
    return _count(tokens, others, _closest(tokens, others))


# Tokenisations of multi-bleu.perl (`multi`) and multi-bleu-detok.perl (`detok`).
MULTI_BLEU: dict[str, Callable[[str], list[str]]] = {
    "multi": words_in_bytes,
    "multi -lc": lambda text: words_in_bytes(lower_ascii(text)),
    "detok": tokenize_detok,
}


def multi_bleu(counts: Counts) -> float:
    """Computes BLEU, 0 to 100, as the scripts of Moses do: 0 if an order has no match.

    Raises:
        UndefinedScoreError: If no hypothesis has a word; the scripts then divide
            by zero.

    Example:
        >>> texts = ["a pub in town"], [["a pub in town ."]]
        >>> items = multi_bleu_counts(*texts, MULTI_BLEU["multi"])
        >>> round(multi_bleu(add(items)), 4)
        77.8801
    """
    if not counts.reference_length:
        return 0.0
    length = counts.totals[0]
    if not length:
        raise UndefinedScoreError(
            "BLEU has no value: no hypothesis has a word, and multi-bleu.perl "
            "divides by zero."
        )
    if not all(counts.hits):
        return 0.0
    precisions = (h / t for h, t in zip(counts.hits, counts.totals, strict=True))
    score = sum(map(math.log, precisions))
    penalty = min(0.0, 1 - counts.reference_length / length)
    return 100 * math.exp(penalty) * math.exp(score / 4)


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
    """Computes BLEU with sacreBLEU: lower-case, tokens of mteval-v13a.

    Items may have different numbers of references. The score equals `mteval_bleu`,
    but is 0 if nothing matches or every hypothesis has fewer than four words.

    Args:
        hypotheses: One text per item.
        references: The references of each item, at least one.

    Raises:
        InputError: If there are no items, an item has no reference, or the
            numbers of items differ.

    Example:
        >>> corpus_bleu(["a cat sat on a mat"], [["a cat sat on a mat"]]).bleu
        100.0
    """
    from sacrebleu.metrics import BLEU

    check_items(hypotheses, references)
    # sacreBLEU takes None for a missing reference, though its types do not say so.
    streams: Any = [
        [texts[i] if i < len(texts) else None for texts in references]
        for i in range(max(map(len, references)))
    ]
    metric = BLEU(lowercase=True, tokenize="13a", smooth_method="exp")
    score = metric.corpus_score(list(hypotheses), streams).score
    # Rounding noise would print a perfect score as 100.00000000000004.
    return Bleu(min(float(score), 100.0), str(metric.get_signature()))
