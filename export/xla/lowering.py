"""Lowers functions of named tensors to StableHLO, as portable artifacts.

Later versions of XLA read them too (StableHLO's compatibility guarantees).
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from spdf_keras.export.graphs import exact_float32

# The oldest version that has all operations; every reader of StableHLO 1.x reads it.
_STABLEHLO_VERSION = "1.0.0"
# The oldest version that has typed custom calls.
_CALLS_VERSION = "1.3.0"
# The number of JAX's typed FFI among the interfaces of custom calls.
_TYPED_FFI = 4

# Tensors by name; a weight's path may also have a `spdf_keras.kernels.Kernel`.
Tensors = dict[str, Any]


@dataclass(frozen=True)
class Argument:
    """An argument or a result of a program.

    Attributes:
        name: Name of the argument; a weight is named by its path.
        role: `weight`, `mask`, `bits`, `values`, `moment`, `step`, `cache`, `input`
            or `output`, and for the programs that skip zeros `packed` and
            `structure`. A runner makes moments and the step from zeros.
        shape: Shape, all sizes fixed.
        dtype: Name of the dtype, as in NumPy.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Program:
    """A lowered program.

    Attributes:
        arguments: Arguments in the order of the call.
        results: Results in the order of the return.
        blob: The portable artifact.
    """

    arguments: tuple[Argument, ...]
    results: tuple[Argument, ...]
    blob: bytes


def lower(
    function: Callable[[Tensors], Tensors],
    arguments: Sequence[Argument],
    result_roles: dict[str, str] | None = None,
    *,
    name: str = "main",
    calls: Collection[str] = (),
) -> Program:
    """Lowers a function of named tensors.

    Args:
        function: Takes tensors by name, and returns tensors by name.
        arguments: Arguments of the function.
        result_roles: Roles of results that are no `output`, by name.
        name: Name of the program's module.
        calls: Targets of its custom calls, which are those of JAX's typed FFI.
    """
    from tensorflow.compiler.mlir.stablehlo import stablehlo

    names: list[str] = []

    def flat(*tensors: tf.Tensor) -> list[tf.Tensor]:
        named = {a.name: t for a, t in zip(arguments, tensors, strict=True)}
        results = function(named)
        names[:] = results
        return list(results.values())

    # TensorFlow lowers functions of specs only if each parameter has a name.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    flat.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(f"argument_{i}", kind) for i in range(len(arguments))]
    )
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arguments]
    # Otherwise products of float32 are marked as good enough in TensorFloat-32.
    with exact_float32(), tf.device("CPU:0"):
        traced = tf.function(flat, jit_compile=True, autograph=False)
        concrete = traced.get_concrete_function(*specs)
        # As bytecode: in text, constants take many times their bytes.
        module = traced.experimental_get_compiler_ir(*specs)(
            stage="stablehlo_serialized"
        )
    results = tuple(
        Argument(
            name,
            (result_roles or {}).get(name, "output"),
            tuple(output.shape),
            output.dtype.name,
        )
        for name, output in zip(names, concrete.structured_outputs, strict=True)
    )
    blob = stablehlo.serialize_portable_artifact_str(module, _STABLEHLO_VERSION)
    return Program(tuple(arguments), results, _finished(blob, name, calls))


def _finished(artifact: bytes, name: str, calls: Collection[str]) -> bytes:
    """Takes out of a program what depends on the machine, and types its calls.

    TensorFlow names each module by a counter, and each operation by the file of its
    own that made it; it writes custom calls with an interface that JAX does not have.
    """
    from jax.extend.mlir import ir
    from jax.extend.mlir.dialects import stablehlo
    from jax.interpreters import mlir
    from jaxlib.mlir.passmanager import PassManager

    def type_call(operation: ir.Operation) -> ir.WalkResult:
        attributes = operation.attributes
        if operation.name == "stablehlo.custom_call":
            if ir.StringAttr(attributes["call_target_name"]).value in calls:
                number = ir.IntegerType.get_signless(32)
                attributes["api_version"] = ir.IntegerAttr.get(number, _TYPED_FFI)
                attributes["backend_config"] = ir.DictAttr.get({})
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context() as context:
        module = stablehlo.deserialize_portable_artifact(context, artifact)
        PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
        module.operation.attributes["sym_name"] = ir.StringAttr.get(name)
        module.operation.walk(type_call)
        module.operation.verify()
        version = _CALLS_VERSION if calls else _STABLEHLO_VERSION
        return bytes(stablehlo.serialize_portable_artifact(module, version))
