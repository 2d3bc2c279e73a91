"""Counts of n-grams, and of those that a hypothesis shares with its references."""

from collections import Counter
from collections.abc import Sequence

NGram = tuple[str, ...]
Tokens = Sequence[str]


def count_ngrams(tokens: Tokens, order: int) -> Counter[NGram]:
    """Counts the n-grams of one order.

    Example:
        >>> count_ngrams(["a", "b", "a", "b"], 2)
        Counter({('a', 'b'): 2, ('b', 'a'): 1})
    """
    return Counter(zip(*(tokens[i:] for i in range(order)), strict=False))


def shared_ngrams(
    hypothesis: Tokens, references: Sequence[Tokens], order: int
) -> Counter[NGram]:
    """The n-grams of a hypothesis that its references have.

    Each counts as often as in the hypothesis, at most as often as in the one
    reference that has it most often.

    Example:
        >>> shared_ngrams(["a", "a", "a", "b"], [["a", "a"], ["a", "c"]], 1)
        Counter({('a',): 2})
    """
    shared: Counter[NGram] = Counter()
    counts = count_ngrams(hypothesis, order)
    for reference in references if counts else ():
        others = count_ngrams(reference, order)
        for ngram in counts.keys() & others.keys():
            hits = min(counts[ngram], others[ngram])
            if hits > shared[ngram]:
                shared[ngram] = hits
    return shared


def closest_length(length: int, lengths: Sequence[int]) -> int:
    """The reference length that is closest to a hypothesis; of two, the shorter.

    Example:
        >>> closest_length(7, [11, 8, 6])
        6
    """
    return min(lengths, key=lambda other: (abs(other - length), other))
