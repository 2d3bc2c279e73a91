"""Checks of the texts to score, and the error of a score without a value."""

from collections.abc import Sequence

from spdf_keras.errors import InputError


class UndefinedScoreError(ArithmeticError):
    """The official program fails on these texts, so the score has no value.

    The message is one sentence that names the program and the reason.
    """


def check_items(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Checks that there is something to score.

    Raises:
        InputError: If there are no items, an item has no reference, or the
            numbers of items differ.

    Example:
        >>> check_items(["a"], [["a", "b"]])
    """
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
