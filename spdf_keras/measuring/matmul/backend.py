"""What a way to multiply activations by a kernel with zeros does."""

from collections.abc import Callable
from typing import Any, ClassVar

from spdf_keras.errors import ExportError
from spdf_keras.measuring.matmul.problem import Array, Problem

Call = Callable[[], Any]


class UnsupportedError(ExportError):
    """A backend does not do this; the message says why."""


class Backend:
    """A way to multiply, for one problem.

    Attributes:
        name: Its name in tables.
        is_dense: Whether it multiplies zeros.
        lacks: Why it has no products of a precision, by precision.
        costs: Seconds of what is done once for many products, by its name.
    """

    name: ClassVar[str]
    is_dense: ClassVar[bool] = False
    lacks: ClassVar[dict[str, str]] = {}
    costs: dict[str, float] = {}

    def __init__(self, problem: Problem) -> None:
        raise NotImplementedError

    @staticmethod
    def need(problem: Problem) -> int:
        """Estimates the most bytes that it takes while it is made."""
        return 8 * problem.kernel.size

    def forward(self, x: Array) -> Call:
        """Makes a call that returns `x @ kernel`, `(tokens, out_features)`.

        Raises:
            UnsupportedError: If the backend has no such product.
        """
        raise NotImplementedError

    def gradients(self, x: Array, dy: Array) -> Call:
        """Makes a call that returns the gradients of `x` and of the kept weights.

        Args:
            x: Inputs of the product.
            dy: Gradient of its outputs.

        Raises:
            UnsupportedError: If the backend has no gradients.
        """
        raise UnsupportedError("for inference only")
