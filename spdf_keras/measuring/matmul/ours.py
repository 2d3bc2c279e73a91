"""Our products, which skip zeros, and what it costs to lay kernels out for them."""

from functools import partial
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras.measuring import turns
from spdf_keras.measuring.matmul.backend import Backend, Call
from spdf_keras.measuring.matmul.problem import Array, Problem
from spdf_keras.measuring.matmul.rows import LAYOUT, STRUCTURE
from spdf_keras.native.tensorflow.operations import load_operations
from spdf_keras.native.tensorflow.products import Kept, keep, lay_out, sparse_linear


class _Ours(Backend):
    """Our product with a kernel that is laid out before."""

    _gradients: ClassVar[bool]

    def __init__(self, problem: Problem) -> None:
        self._tensor = problem.tensor
        self._bias = problem.tensor(np.zeros(problem.shape.out_features, np.float32))
        self._kept, self._layout = self._lay_out(problem, problem.mask)
        self.costs = self._measure_costs(problem)

    def _lay_out(self, problem: Problem, mask: NDArray[np.bool_]) -> tuple[Kept, Any]:
        kept = keep(tf.constant(problem.kernel), tf.constant(mask))
        return kept, lay_out(kept, problem.precision, self._gradients)

    def _measure_costs(self, problem: Problem) -> dict[str, float]:
        # One entry is another, so that no structure of this mask is known yet.
        mask = problem.mask.copy()
        mask.flat[int(self._gradients)] ^= True
        made = []  # stays, because structures last as long as their layouts
        first = turns.seconds(lambda: made.append(self._lay_out(problem, mask)))
        later = [turns.seconds(partial(self._lay_out, problem, mask)) for _ in range(3)]
        again = float(np.median(later))
        return {STRUCTURE: max(first - again, 0.0), LAYOUT: again}

    def forward(self, x: Array) -> Call:
        inputs, kept = self._tensor(x), self._kept.values
        return lambda: sparse_linear(inputs, kept, self._layout, self._bias)


class Training(_Ours):
    """Our product in a training step, whose layout all micro-batches share."""

    name, _gradients = "ours, training", True

    @staticmethod
    def need(problem: Problem) -> int:
        # A second kernel is laid out to measure what that costs.
        return 2 * (5 * problem.kernel.size + 18 * problem.kept)

    def gradients(self, x: Array, dy: Array) -> Call:
        # A tape would compute the forward product too.
        run = load_operations().spdf_sparse_linear_gradient
        inputs, slope = self._tensor(x), self._tensor(dy)
        return lambda: run(inputs, self._layout, slope)[:2]


class Inference(_Ours):
    """Our product without gradients, as in prefill and decoding."""

    name, _gradients = "ours, packed once", False

    @staticmethod
    def need(problem: Problem) -> int:
        return 2 * (5 * problem.kernel.size + 10 * problem.kept)
