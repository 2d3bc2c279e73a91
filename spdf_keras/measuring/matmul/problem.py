"""Matrix products to measure."""

import re
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras.errors import InputError

Array = NDArray[np.float32]


class Shape(NamedTuple):
    """Sizes of a kernel.

    Attributes:
        in_features: Its rows.
        out_features: Its columns.
    """

    in_features: int
    out_features: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Reads `768x3072`.

        Raises:
            InputError: If the text is not of this form, or the kernel is too large.

        Example:
            >>> Shape.parse("768x3072")
            Shape(in_features=768, out_features=3072)
        """
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if not match or int(match[1]) * int(match[2]) >= 2**31:
            raise InputError(
                "A shape must be IN x OUT of fewer than 2**31 weights, such as "
                f"768x3072. Received: '{text}'."
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.in_features}x{self.out_features}"


class Problem:
    """A kernel with random zeros; the same one for the same arguments.

    Args:
        shape: Its sizes.
        sparsity: Probability of a zero.
        precision: `float32` or `bfloat16`. All values are numbers of this precision,
            so that every backend multiplies the same ones.

    Attributes:
        shape: Its sizes.
        sparsity: The probability of a zero.
        precision: The precision.
        mask: `(in_features, out_features)`, bool, 1 = kept.
        kernel: The same shape, float32, zero where the mask is.
        kept: Number of weights that the mask keeps.
    """

    def __init__(
        self, shape: Shape, sparsity: float, precision: str = "float32"
    ) -> None:
        self.shape, self.sparsity, self.precision = shape, sparsity, precision
        random = np.random.default_rng(0)
        self.mask: NDArray[np.bool_] = random.random(shape, np.float32) >= sparsity
        kernel = random.standard_normal(shape, np.float32) * self.mask
        self.kernel = self._rounded(kernel)
        self.kept = int(self.mask.sum())

    def activations(self, tokens: int) -> tuple[Array, Array]:
        """Draws inputs `(tokens, in_features)`, gradients `(tokens, out_features)`."""
        random = np.random.default_rng(tokens)
        x, dy = (random.standard_normal((tokens, n), np.float32) for n in self.shape)
        return self._rounded(x), self._rounded(dy)

    def tensor(self, values: Array) -> tf.Tensor:
        """Returns values in the problem's precision."""
        return tf.cast(values, self.precision)

    def _rounded(self, values: Array) -> Array:
        if self.precision == "float32":
            return values
        rounded: Array = tf.cast(self.tensor(values), tf.float32).numpy()
        return rounded


def relative_error(received: Any, expected: NDArray[Any]) -> float:
    """Divides the largest difference by the largest expected value."""
    scale = float(np.abs(expected).max()) or 1.0
    # A difference of bfloat16 numbers would be rounded to one.
    received = np.asarray(received).astype(expected.dtype)
    return float(np.abs(received - expected).max()) / scale
