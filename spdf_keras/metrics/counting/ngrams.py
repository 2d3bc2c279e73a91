"""Counts of the n-grams of many texts, and of those that two texts share.

BLEU, NIST and CIDEr use these counts. All texts of a case are counted together, in
NumPy arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[str]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The counts of the n-grams of one length in each text.

    Attributes:
        text: Number of the text.
        ngram: Number of the n-gram; a text has one entry for each of its n-grams.
        count: How often.
        start: For each n-gram, the n-gram without its last token.
    """

    text: Integers
    ngram: Integers
    count: Integers
    start: Integers

    def references(self, hypotheses: int) -> "Order":
        """Returns the entries of the texts that follow the hypotheses."""
        kept = self.text >= hypotheses
        return Order(self.text[kept], self.ngram[kept], self.count[kept], self.start)


@dataclass(frozen=True)
class Corpus:
    """The n-grams of hypotheses, which are the first texts, and of references.

    Attributes:
        items: Number of items, and of hypotheses.
        item: The item of each text.
        lengths: Tokens of each text.
        numbers: The number of each token, and of its 1-gram.
        orders: The counts, 1-grams first.
    """

    items: int
    item: Integers
    lengths: Integers
    numbers: dict[str, int]
    orders: list[Order]

    def keys(self, order: Order) -> Integers:
        """Returns one number for each entry's pair of item and n-gram."""
        return self.item[order.text] * len(order.start) + order.ngram

    def shared(self, order: Order) -> tuple[Integers, Integers, Integers]:
        """Counts the n-grams of hypotheses that their references have.

        A count is that of the hypothesis, clipped to the highest count in one
        reference.

        Returns:
            Item, n-gram and count of each.
        """
        references = order.references(self.items)
        keys = self.keys(references)
        ordered = np.argsort(keys, kind="stable")
        known, first = np.unique(keys[ordered], return_index=True)
        ours = order.text < self.items
        wanted = self.keys(order)[ours]
        if not len(known):
            return wanted[:0], wanted[:0], wanted[:0]
        most = np.maximum.reduceat(references.count[ordered], first)
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        is_shared = known[place] == wanted
        hits = np.minimum(order.count[ours][is_shared], most[place[is_shared]])
        return order.text[ours][is_shared], order.ngram[ours][is_shared], hits


def count_ngrams(
    hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]], longest: int
) -> Corpus:
    """Counts the n-grams of 1 to `longest` tokens.

    Example:
        >>> corpus = count_ngrams([["a", "a", "b"]], [[["a", "b"], ["a", "a"]]], 2)
        >>> [hits.tolist() for *_, hits in map(corpus.shared, corpus.orders)]
        [[2, 1], [1, 1]]
    """
    texts = [*hypotheses, *(text for several in references for text in several)]
    sizes = [len(several) for several in references]
    item = np.concatenate(
        [np.arange(len(hypotheses)), np.repeat(np.arange(len(sizes)), sizes)]
    )
    numbers: dict[str, int] = {}
    flat = [numbers.setdefault(t, len(numbers)) for text in texts for t in text]
    tokens = np.array(flat, np.int64)
    lengths = np.array([*map(len, texts)], np.int64)
    text = np.repeat(np.arange(len(texts)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))
    orders: list[Order] = []
    # The n-gram that starts at each token; it begins as the n-gram of no token.
    ngram = np.zeros(len(tokens), np.int64)
    for length in range(1, longest + 1):
        places = np.flatnonzero(left >= length)
        keys = ngram[places] * max(len(numbers), 1) + tokens[places + length - 1]
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        start = ngram[places[first]]
        ngram = ngram.copy()
        ngram[places] = inverse
        kinds = max(len(first), 1)
        pairs, count = np.unique(text[places] * kinds + inverse, return_counts=True)
        orders.append(Order(pairs // kinds, pairs % kinds, count, start))
    return Corpus(len(hypotheses), item, lengths, numbers, orders)


def closest_length(length: int, lengths: Sequence[int]) -> int:
    """Returns the reference length closest to a hypothesis's; the shorter of two.

    Example:
        >>> closest_length(7, [11, 8, 6])
        6
    """
    return min(lengths, key=lambda other: (abs(other - length), other))
