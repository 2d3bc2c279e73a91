"""The products as custom calls of programs that TensorFlow compiles with XLA.

XLA knows no operation of ours, and no layout can pass through its programs. So each
call takes the dense kernel and its mask, and lays the kept values out by itself.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from spdf_keras.native.tensorflow.operations import load_operations

LINEAR = "spdf_compiled_linear"
GRADIENTS = "spdf_compiled_gradients"

# Version of the operation that calls StableHLO, which takes modules as text.
_VERSION = 10
_TYPES = {tf.float32: "f32", tf.bfloat16: "bf16", tf.bool: "i1"}


class Array(NamedTuple):
    """Shape and type of an operand or a result; an unknown size is None."""

    shape: tuple[int | None, ...]
    dtype: tf.DType

    @classmethod
    def of(cls, tensor: tf.Tensor) -> "Array":
        """Returns those of a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype)

    def __str__(self) -> str:
        sizes = ("?" if size is None else str(size) for size in self.shape)
        return f"tensor<{'x'.join((*sizes, _TYPES[self.dtype]))}>"


def is_compiled() -> bool:
    """Whether operations that are made now are compiled with XLA."""
    # TensorFlow has no public function that says so.
    from tensorflow.python.ops import control_flow_util

    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def compiled_linear(
    x: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, bias: tf.Tensor
) -> tf.Tensor:
    """Computes `x @ (kernel * mask) + bias` in a compiled program, zeros skipped.

    Args:
        x: `(tokens, in_features)`, float32 or bfloat16; sums are float32.
        kernel: `(in_features, out_features)`, float32.
        mask: The same shape, bool. It has no gradient, and the kernel's is zero where
            it is 0.
        bias: `(out_features,)`, in the type of `x`.

    Returns:
        `(tokens, out_features)`, in the type of `x`.

    Raises:
        NotBuiltError: If the library cannot be compiled.
    """
    load_operations()  # registers the calls

    @tf.custom_gradient
    def product(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        def gradients(dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
            results = [Array.of(x), Array.of(kernel)]
            dx, dkernel = _call(GRADIENTS, [x, kernel, mask, dy], results)
            return dx, dkernel, tf.raw_ops.BiasAddGrad(out_backprop=dy)

        y = Array((x.shape[0], kernel.shape[1]), x.dtype)
        return *_call(LINEAR, [x, kernel, mask, bias], [y]), gradients

    return product(x, kernel, bias)


def _call(
    target: str, operands: Sequence[tf.Tensor], results: Sequence[Array]
) -> list[tf.Tensor]:
    # `tf.raw_ops` lacks this operation.
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    arrays = tuple(map(Array.of, operands))
    return list(
        gen_xla_ops.xla_call_module(
            args=operands,
            version=_VERSION,
            module=_module(target, arrays, tuple(results)),
            Sout=[result.shape for result in results],
            Tout=[result.dtype for result in results],
            platforms=["CPU"],
        )
    )


@functools.cache
def _module(
    target: str, operands: tuple[Array, ...], results: tuple[Array, ...]
) -> str:
    """Writes a StableHLO module of one custom call of XLA's typed interface.

    The number of tokens, the first size of the first operand, may be unknown until the
    program is compiled. Then further operands tell the shapes of the results.
    """
    lines: list[str] = []
    names = [f"%{number}" for number in range(len(operands))]
    types = list(map(str, operands))
    of_module, of_call = "", ""
    if operands[0].shape[0] is None:
        lines += [
            "%size = stablehlo.get_dimension_size %0, dim = 0 : "
            f"({operands[0]}) -> tensor<i32>",
            "%tokens = stablehlo.reshape %size : (tensor<i32>) -> tensor<1xi32>",
        ]
        for number, result in enumerate(results):
            lines += _shape(f"%shape{number}", result)
            names.append(f"%shape{number}")
            types.append(f"tensor<{len(result.shape)}xi32>")
        indices = list(range(len(operands), len(names)))
        of_module = "attributes {jax.uses_shape_polymorphism = true} "
        of_call = (
            f", indices_of_shape_operands = dense<{indices}> : "
            f"tensor<{len(indices)}xi64>"
        )
    arguments = ", ".join(f"%{i}: {array}" for i, array in enumerate(operands))
    outputs = ", ".join(map(str, results))
    returned = ", ".join(f"%y#{number}" for number in range(len(results)))
    lines += [
        f"%y:{len(results)} = stablehlo.custom_call @{target}({', '.join(names)}) "
        f"{{api_version = 4 : i32, backend_config = {{}}{of_call}}} : "
        f"({', '.join(types)}) -> ({outputs})",
        f"return {returned} : {outputs}",
    ]
    body = "\n".join(lines)
    return (
        f"module {of_module}{{\nfunc.func @main({arguments}) -> ({outputs}) {{\n"
        f"{body}\n}}\n}}\n"
    )


def _shape(name: str, result: Array) -> list[str]:
    """Returns the lines that make a tensor of the shape of a result."""
    lines, parts = [], []
    for axis, size in enumerate(result.shape):
        part = "%tokens" if size is None else f"{name}_{axis}"
        parts.append(part)
        if size is not None:
            lines.append(f"{part} = stablehlo.constant dense<{size}> : tensor<1xi32>")
    types = ", ".join(["tensor<1xi32>"] * len(parts))
    lines.append(
        f"{name} = stablehlo.concatenate {', '.join(parts)}, dim = 0 : "
        f"({types}) -> tensor<{len(parts)}xi32>"
    )
    return lines
