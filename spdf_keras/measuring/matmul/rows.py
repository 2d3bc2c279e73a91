"""Rows of the measurement of matrix products, and where they pass dense products."""

from collections.abc import Sequence
from dataclasses import dataclass

FORWARD, GRADIENTS, TRAINING = "forward", "gradients", "forward and gradients"
# What is done once for many products.
STRUCTURE, LAYOUT = "structure of the mask", "layout of the weights"

# Shape of the kernel as text, sparsity, number of tokens, precision.
Cell = tuple[str, float, int, str]


@dataclass(frozen=True)
class Row:
    """One backend on one product.

    Attributes:
        shape: Sizes of the kernel, as text.
        sparsity: Its fraction of zeros.
        tokens: Rows of the activations.
        operation: `forward`, `gradients` (of the input and of the kernel) or both;
            `STRUCTURE` or `LAYOUT`, which do not depend on the tokens.
        backend: Name of the backend.
        seconds: Median; None where it was not measured.
        seconds_low: First quartile.
        seconds_high: Third quartile.
        speedup: Over the fastest dense backend of the same round, median.
        speedup_low: First quartile.
        speedup_high: Third quartile.
        theoretical: `1 / (1 - sparsity)`.
        rounds: Number of rounds.
        relative_error: Distance from `tf.matmul`, of the result or of the inputs'
            gradient.
        note: Reason why it was not measured.
        precision: `float32` or `bfloat16`.
    """

    shape: str
    sparsity: float
    tokens: int
    operation: str
    backend: str
    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    theoretical: float = 1.0
    rounds: int = 0
    relative_error: float | None = None
    note: str = ""
    precision: str = "float32"

    @property
    def cell(self) -> Cell:
        """The cell that the row belongs to."""
        return self.shape, self.sparsity, self.tokens, self.precision


def break_even(points: Sequence[tuple[float, float]]) -> float | None:
    """The sparsity from which on a backend is at least as fast as dense.

    Args:
        points: Sparsities, ascending, and speed-ups; between them it is linear.

    Returns:
        The sparsity; None if the last speed-up is below 1.

    Example:
        >>> break_even([(0.0, 0.5), (0.5, 1.5), (0.9, 4.0)])
        0.25
    """
    if not points or points[-1][1] < 1:
        return None
    right, fast = points[-1]
    for sparsity, speedup in reversed(points):
        if speedup < 1:
            return sparsity + (right - sparsity) * (1 - speedup) / (fast - speedup)
        right, fast = sparsity, speedup
    return right
