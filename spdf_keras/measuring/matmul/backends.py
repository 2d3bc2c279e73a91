"""Ways to multiply activations by a kernel with zeros, on CPUs, by name."""

import os
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from spdf_keras.measuring.matmul.backend import Backend, Call, UnsupportedError
from spdf_keras.measuring.matmul.ours import Inference, Training
from spdf_keras.measuring.matmul.problem import Array, Problem

# The gradient of `tf.sparse` holds a product per kept weight and token.
_MOST_BYTES = 1 << 30


class DenseTensorFlow(Backend):
    """`tf.matmul`."""

    name, is_dense = "TensorFlow, dense", True

    def __init__(self, problem: Problem) -> None:
        self._tensor = problem.tensor
        self._kernel = self._tensor(problem.kernel)

    def forward(self, x: Array) -> Call:
        inputs = self._tensor(x)
        return lambda: tf.matmul(inputs, self._kernel)

    def gradients(self, x: Array, dy: Array) -> Call:
        inputs, slope = self._tensor(x), self._tensor(dy)
        return lambda: _dense_gradients(inputs, self._kernel, slope)


class DenseFloat32(DenseTensorFlow):
    """`tf.matmul` in float32, beside products of a lower precision.

    It is no dense backend, so that speed-ups stay those over the same precision.
    """

    name, is_dense = "TensorFlow, dense float32", False
    lacks: ClassVar[dict[str, str]] = {"float32": "is the first backend already"}

    def __init__(self, problem: Problem) -> None:
        self._tensor = tf.constant
        self._kernel = tf.constant(problem.kernel)


class DenseXLA(Backend):
    """`tf.matmul` compiled by XLA."""

    name, is_dense = "XLA, dense", True

    def __init__(self, problem: Problem) -> None:
        self._tensor = problem.tensor
        # A variable: XLA might rearrange a constant of the program beforehand.
        self._kernel = tf.Variable(self._tensor(problem.kernel))

    def forward(self, x: Array) -> Call:
        inputs = self._tensor(x)
        compiled = tf.function(tf.matmul, jit_compile=True, autograph=False)
        return lambda: compiled(inputs, self._kernel)

    def gradients(self, x: Array, dy: Array) -> Call:
        inputs, slope = self._tensor(x), self._tensor(dy)
        compiled = tf.function(_dense_gradients, jit_compile=True, autograph=False)
        return lambda: compiled(inputs, self._kernel, slope)


def _dense_gradients(x: Any, kernel: Any, dy: Any) -> tuple[Any, Any]:
    return tf.matmul(dy, kernel, transpose_b=True), tf.matmul(x, dy, transpose_a=True)


class SparseTensorFlow(Backend):
    """`tf.sparse.sparse_dense_matmul`; it takes and returns tokens in columns."""

    name = "tf.sparse"
    lacks: ClassVar[dict[str, str]] = {
        "bfloat16": "adds up in bfloat16, so its sums are no sums of float32"
    }

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
    lacks: ClassVar[dict[str, str]] = {"bfloat16": "has no products in bfloat16"}

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


BACKENDS: dict[str, type[Backend]] = {
    "tensorflow": DenseTensorFlow,
    "tensorflow-float32": DenseFloat32,
    "xla": DenseXLA,
    "tflite": DenseTFLite,
    "tf.sparse": SparseTensorFlow,
    "tflite-sparse": SparseTFLite,
    "training": Training,
    "inference": Inference,
}
