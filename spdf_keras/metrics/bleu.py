"""Corpus BLEU, by sacreBLEU, printed with its signature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spdf_keras.errors import InputError


@dataclass(frozen=True)
class Bleu:
    """A BLEU score and its conditions.

    Attributes:
        bleu: 0 to 100.
        signature: sacreBLEU's signature: version, tokenisation, case, smoothing.
    """

    bleu: float
    signature: str


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
    """Scores hypotheses as the official E2E script does.

    Lower-case, tokenised as mteval-v13a. Items may have different numbers of
    references.

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

    if len(hypotheses) != len(references):
        raise InputError(
            f"There must be a hypothesis per item. Received: {len(hypotheses)} "
            f"hypotheses for {len(references)} items with references."
        )
    if not hypotheses:
        raise InputError("There is nothing to score: no hypotheses were given.")
    for number, texts in enumerate(references, 1):
        if not texts:
            raise InputError(f"Item {number} has no reference.")
    # sacreBLEU takes None for a missing reference, though its types do not say so.
    streams: Any = [
        [texts[i] if i < len(texts) else None for texts in references]
        for i in range(max(map(len, references)))
    ]
    metric = BLEU(lowercase=True, tokenize="13a", smooth_method="exp")
    score = metric.corpus_score(list(hypotheses), streams).score
    # Rounding noise of a perfect score would print as 100.00000000000004.
    return Bleu(min(float(score), 100.0), str(metric.get_signature()))
