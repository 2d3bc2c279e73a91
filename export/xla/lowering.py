"""Lowers functions of named tensors to StableHLO, as portable artifacts.

Later versions of XLA read them too (StableHLO's compatibility guarantees).
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from spdf_keras.export.graphs import exact_float32

# The oldest version that has all operations; every reader of StableHLO 1.x reads it.
_STABLEHLO_VERSION = "1.0.0"

Tensors = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Argument:
    """An argument or a result of a program.

    Attributes:
        name: Name of the argument; a weight is named by its path.
        role: `weight`, `mask`, `bits`, `values`, `moment`, `step`, `cache`, `input`
            or `output`. A runner makes moments and the step from zeros.
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
) -> Program:
    """Lowers a function of named tensors.

    Args:
        function: Takes tensors by name, and returns tensors by name.
        arguments: Arguments of the function.
        result_roles: Roles of results that are no `output`, by name.
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
    return Program(tuple(arguments), results, blob)
