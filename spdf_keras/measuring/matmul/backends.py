"""Ways to multiply activations by a kernel with zeros, on CPUs."""

import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from spdf_keras.errors import ExportError
from spdf_keras.measuring.matmul.problem import Array, Problem
from spdf_keras.native.tensorflow.operations import load_operations
from spdf_keras.native.tensorflow.products import (
    keep,
    lay_out,
    sparse_linear,
)

Call = Callable[[], Any]

# The gradient of `tf.sparse` holds a product per kept weight and token.
_MOST_BYTES = 1 << 30


class UnsupportedError(ExportError):
    """A backend does not do this; the message says why."""


class Backend:
    """A way to multiply, for one problem.

    Attributes:
        name: Its name in tables.
        is_dense: Whether it multiplies zeros.
    """

    name: ClassVar[str]
    is_dense: ClassVar[bool] = False

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


class DenseTensorFlow(Backend):
    """`tf.matmul`."""

    name, is_dense = "TensorFlow, dense", True

    def __init__(self, problem: Problem) -> None:
        self._kernel = tf.constant(problem.kernel)

    def forward(self, x: Array) -> Call:
        inputs = tf.constant(x)
        return lambda: tf.matmul(inputs, self._kernel)

    def gradients(self, x: Array, dy: Array) -> Call:
        inputs, slope = tf.constant(x), tf.constant(dy)
        return lambda: _dense_gradients(inputs, self._kernel, slope)


class DenseXLA(Backend):
    """`tf.matmul` compiled by XLA."""

    name, is_dense = "XLA, dense", True

    def __init__(self, problem: Problem) -> None:
        # A variable: XLA might rearrange a constant of the program beforehand.
        self._kernel = tf.Variable(problem.kernel)

    def forward(self, x: Array) -> Call:
        inputs = tf.constant(x)
        compiled = tf.function(tf.matmul, jit_compile=True, autograph=False)
        return lambda: compiled(inputs, self._kernel)

    def gradients(self, x: Array, dy: Array) -> Call:
        inputs, slope = tf.constant(x), tf.constant(dy)
        compiled = tf.function(_dense_gradients, jit_compile=True, autograph=False)
        return lambda: compiled(inputs, self._kernel, slope)


def _dense_gradients(x: Any, kernel: Any, dy: Any) -> tuple[Any, Any]:
    return tf.matmul(dy, kernel, transpose_b=True), tf.matmul(x, dy, transpose_a=True)


class SparseTensorFlow(Backend):
    """`tf.sparse.sparse_dense_matmul`; it takes and returns tokens in columns."""

    name = "tf.sparse"

    def __init__(self, problem: Problem) -> None:
        indices = np.argwhere(problem.mask)
        values = problem.kernel[problem.mask]
        self._kernel = tf.SparseTensor(indices, values, problem.shape)
        self._kept = len(values)

    @staticmethod
    def need(problem: Problem) -> int:
        # An index is two int64; NumPy makes the indices of two such arrays.
        return 50 * problem.kept

    def forward(self, x: Array) -> Call:
        return self._product(tf.constant(x), adjoint_a=True)

    def gradients(self, x: Array, dy: Array) -> Call:
        need = 8 * self._kept * len(x)
        if need > _MOST_BYTES:
            raise UnsupportedError(f"needs {need / 2**30:.0f} GiB")
        inputs, slope = tf.constant(x), tf.constant(dy)
        to_inputs = self._product(slope, adjoint_a=False)
        rows, columns = tf.unstack(self._kernel.indices, axis=1)

        def call() -> tuple[Any, Any]:
            # TensorFlow's own gradient of the values computes the same.
            left = tf.gather(tf.transpose(inputs), rows)
            right = tf.gather(tf.transpose(slope), columns)
            return to_inputs(), tf.reduce_sum(left * right, 1)

        return call

    def _product(self, x: Any, adjoint_a: bool) -> Call:
        def call() -> Any:
            product = tf.sparse.sparse_dense_matmul(
                self._kernel, x, adjoint_a=adjoint_a, adjoint_b=True
            )
            return tf.transpose(product)

        return call


class DenseTFLite(Backend):
    """TFLite's default runtime, XNNPACK, on the dense file."""

    name, is_dense = "TFLite, dense", True

    def __init__(self, problem: Problem) -> None:
        self._model = self._encode(_tflite(problem))

    @staticmethod
    def need(problem: Problem) -> int:
        # The converter holds the weights five times.
        return 5 * 4 * problem.kernel.size

    @staticmethod
    def _encode(model: bytes) -> bytes:
        return model

    def forward(self, x: Array) -> Call:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(
            model_content=self._model, num_threads=os.cpu_count() or 1
        )
        inputs, result = (
            details[0]["index"]
            for details in (
                interpreter.get_input_details(),
                interpreter.get_output_details(),
            )
        )
        interpreter.resize_tensor_input(inputs, x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(inputs, x)

        def call() -> Any:
            interpreter.invoke()
            # No copy is made: other backends make none either.
            return interpreter.tensor(result)()

        return call


class SparseTFLite(DenseTFLite):
    """TFLite's default runtime on the file with sparse-encoded weights."""

    name, is_dense = "TFLite, sparse-encoded", False

    @staticmethod
    def _encode(model: bytes) -> bytes:
        from spdf_keras.export.tflite.sparse_encoding import sparse_encode

        encoded, report = sparse_encode(model)
        if not report.encoded:
            raise UnsupportedError("no smaller than dense, so not encoded")
        return encoded


def _tflite(problem: Problem) -> bytes:
    kernel = tf.constant(np.ascontiguousarray(problem.kernel.T))
    module = tf.Module()
    module.run = tf.function(lambda x: tf.matmul(x, kernel, transpose_b=True))
    spec = tf.TensorSpec((None, problem.shape.in_features), tf.float32)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.run.get_concrete_function(spec)], module
    )
    return bytes(converter.convert())


class Training(Backend):
    """Our product in a training step, for which the kernel is laid out before."""

    name = "ours, training"

    def __init__(self, problem: Problem) -> None:
        self._kept = keep(tf.constant(problem.kernel), tf.constant(problem.mask))
        self._layout = lay_out(self._kept)
        self._bias = tf.zeros(problem.shape.out_features)

    @staticmethod
    def need(problem: Problem) -> int:
        return 5 * problem.kernel.size + 18 * problem.kept

    def forward(self, x: Array) -> Call:
        inputs = tf.constant(x)
        return lambda: sparse_linear(
            inputs, self._kept.values, self._layout, self._bias
        )

    def gradients(self, x: Array, dy: Array) -> Call:
        # A tape would compute the forward product too.
        run = load_operations().spdf_sparse_linear_gradient
        inputs, slope = tf.constant(x), tf.constant(dy)
        return lambda: run(inputs, self._layout, slope)


class Inference(Backend):
    """Our product without gradients, as in prefill and decoding."""

    name = "ours, packed once"

    def __init__(self, problem: Problem) -> None:
        self._kept = keep(tf.constant(problem.kernel), tf.constant(problem.mask))
        self._layout = lay_out(self._kept, gradients=False)
        self._bias = tf.zeros(problem.shape.out_features)

    @staticmethod
    def need(problem: Problem) -> int:
        return 5 * problem.kernel.size + 10 * problem.kept

    def forward(self, x: Array) -> Call:
        inputs = tf.constant(x)
        return lambda: sparse_linear(
            inputs, self._kept.values, self._layout, self._bias
        )


BACKENDS: dict[str, type[Backend]] = {
    "tensorflow": DenseTensorFlow,
    "xla": DenseXLA,
    "tflite": DenseTFLite,
    "tf.sparse": SparseTensorFlow,
    "tflite-sparse": SparseTFLite,
    "training": Training,
    "inference": Inference,
}
