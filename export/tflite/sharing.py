"""Stores once what the converter stores twice in an int8 file: a post-pass.

The token table is looked up in the converter's file with one scale for all tokens, and
multiplied with one per token. Here the lookup reads the multiplied table too: it takes
the token's row and its scale, and multiplies them. Its error becomes smaller by that.
Scales and zero points of a weight stand in the file once for all signatures.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from spdf_keras.export.tflite.flatbuffer import (
    MAX_FLATBUFFER_BYTES,
    read_flatbuffer,
    write_flatbuffer,
)
from spdf_keras.export.tflite.operators import builtin_code, code_index

# Rows that are compared at a time, as tables are large.
_CHUNK = 4096


def share_int8(
    flatbuffer: bytes, max_flatbuffer_bytes: int = MAX_FLATBUFFER_BYTES
) -> bytes:
    """Shares the token table and the scales of an int8 file.

    Args:
        flatbuffer: The converter's file, of any size.
        max_flatbuffer_bytes: As in `sparse_encode`.

    Returns:
        The new file. A file without a table that is stored twice keeps its tables.
    """
    model = read_flatbuffer(flatbuffer)
    weights = _projections(model)
    scales: dict[int, int] = {}
    for subgraph in model.subgraphs:
        for operator in list(subgraph.operators):
            found = _matching(model, subgraph, operator, weights)
            if found is None:
                continue
            if found.buffer not in scales:
                scales[found.buffer] = _add_buffer(model, found.quantization.scale)
            _look_up_rows(model, subgraph, operator, found, scales[found.buffer])
    used = {0, *(t.buffer for subgraph in model.subgraphs for t in subgraph.tensors)}
    used |= {entry.buffer for entry in model.metadata}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    quantization_bytes = share_quantization(model)
    return write_flatbuffer(model, quantization_bytes, max_flatbuffer_bytes)


def _projections(model: Any) -> list[Any]:
    """Finds int8 weights of FULLY_CONNECTED with a scale per row."""
    return [
        tensor
        for subgraph in model.subgraphs
        for operator in subgraph.operators
        if _code(model, operator) == schema.BuiltinOperator.FULLY_CONNECTED
        for tensor in [subgraph.tensors[operator.inputs[1]]]
        if tensor.type == schema.TensorType.INT8
        and tensor.quantization.scale is not None
        and len(tensor.quantization.scale) == tensor.shape[0]
        and not np.any(tensor.quantization.zeroPoint)
    ]


def _matching(model: Any, subgraph: Any, operator: Any, weights: list[Any]) -> Any:
    """Returns the weight that a GATHER looks up with one scale, or None."""
    if _code(model, operator) != schema.BuiltinOperator.GATHER:
        return None
    table = subgraph.tensors[operator.inputs[0]]
    (rows,) = operator.outputs
    readers = _readers(subgraph, rows)
    if (
        table.type != schema.TensorType.INT8
        or [_code(model, o) for o in readers] != [schema.BuiltinOperator.DEQUANTIZE]
        or _readers(subgraph, operator.inputs[0]) != [operator]
        or rows in subgraph.outputs
    ):
        return None
    return next((w for w in weights if _are_alike(model, table, w)), None)


def _are_alike(model: Any, table: Any, weight: Any) -> bool:
    """Whether two tensors are one matrix, rounded with other scales."""
    if tuple(table.shape) != tuple(weight.shape) or len(table.quantization.scale) != 1:
        return False
    rounded, own = (
        model.buffers[tensor.buffer].data.view(np.int8).reshape(tensor.shape)
        for tensor in (table, weight)
    )
    (scale,), (zero,) = table.quantization.scale, table.quantization.zeroPoint
    scales = weight.quantization.scale[:, None]
    for start in range(0, len(own), _CHUNK):
        rows = slice(start, start + _CHUNK)
        values = (rounded[rows].astype(np.float32) - zero) * scale
        difference = np.abs(values - own[rows] * scales[rows])
        if not np.all(difference <= 0.51 * (scale + scales[rows])):
            return False
    return True


def _look_up_rows(
    model: Any, subgraph: Any, operator: Any, weight: Any, scales: int
) -> None:
    """Lets a GATHER read rows of `weight`, and multiplies them by their scales."""
    (rows,), indices = operator.outputs, operator.inputs[1]
    (reader,) = _readers(subgraph, rows)
    output = reader.outputs[0]
    shape = list(subgraph.tensors[output].shape)
    table = subgraph.tensors[operator.inputs[0]]
    # The integers themselves: their scale is 1 until they are multiplied.
    plain = schema.QuantizationParametersT(
        scale=np.ones(1, np.float32), zeroPoint=np.zeros(1, np.int64)
    )
    subgraph.tensors[rows].quantization = plain

    def add(kind: int, shape: Any, buffer: int, suffix: bytes) -> int:
        tensor = schema.TensorT(
            shape=shape,
            type=kind,
            buffer=buffer,
            name=table.name + suffix,
            hasRank=True,
        )
        subgraph.tensors.append(tensor)
        return len(subgraph.tensors) - 1

    float32 = schema.TensorType.FLOAT32
    table.buffer, table.quantization = weight.buffer, plain
    table_scales = add(float32, [weight.shape[0], 1], scales, b"/scales")
    row_scales = add(float32, [*shape[:-1], 1], 0, b"/row_scales")
    integers = add(float32, shape, 0, b"/integers")
    reader.outputs = [integers]
    lookup = schema.OperatorT(
        opcodeIndex=code_index(model, schema.BuiltinOperator.GATHER),
        inputs=[table_scales, indices],
        outputs=[row_scales],
        builtinOptionsType=schema.BuiltinOptions.GatherOptions,
        builtinOptions=schema.GatherOptionsT(),
    )
    multiply = schema.OperatorT(
        opcodeIndex=code_index(model, schema.BuiltinOperator.MUL),
        inputs=[integers, row_scales],
        outputs=[output],
        builtinOptionsType=schema.BuiltinOptions.MulOptions,
        builtinOptions=schema.MulOptionsT(),
    )
    place = subgraph.operators.index(reader) + 1
    subgraph.operators[place:place] = [lookup, multiply]


def _readers(subgraph: Any, tensor: int) -> list[Any]:
    return [operator for operator in subgraph.operators if tensor in operator.inputs]


def _add_buffer(model: Any, values: Any) -> int:
    model.buffers.append(schema.BufferT(values.astype(np.float32).view(np.uint8)))
    return len(model.buffers) - 1


class _SharedVectors:
    """Writes equal vectors of a flatbuffer once."""

    def __init__(self) -> None:
        self._builder: Any = None
        self._written: dict[tuple[str, bytes], int] = {}

    def write(self, builder: Any, vector: Any) -> int:
        if self._builder is not builder:
            self._builder, self._written = builder, {}
        key = vector.dtype.str, vector.tobytes()
        if key not in self._written:
            self._written[key] = builder.CreateNumpyVector(vector)
        return self._written[key]


class _SharedQuantization(schema.QuantizationParametersT):
    """Scales and zero points that share their vectors with others."""

    def __init__(self, own: Any, vectors: _SharedVectors) -> None:
        super().__init__(
            scale=own.scale,
            zeroPoint=own.zeroPoint,
            quantizedDimension=own.quantizedDimension,
        )
        self._vectors = vectors

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the name is the parent's)
        scale = self._vectors.write(builder, self.scale)
        zero_point = self._vectors.write(builder, self.zeroPoint)
        schema.QuantizationParametersStart(builder)
        schema.QuantizationParametersAddScale(builder, scale)
        schema.QuantizationParametersAddZeroPoint(builder, zero_point)
        dimension = self.quantizedDimension
        schema.QuantizationParametersAddQuantizedDimension(builder, dimension)
        return int(schema.QuantizationParametersEnd(builder))


def share_quantization(model: Any) -> int:
    """Lets tensors share scales and zero points; returns the bytes of all, about."""
    vectors, total = _SharedVectors(), 0
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            own = tensor.quantization
            if own is None or own.scale is None or own.zeroPoint is None:
                continue
            if own.min is None and own.max is None and own.details is None:
                tensor.quantization = _SharedQuantization(own, vectors)
            total += own.scale.nbytes + own.zeroPoint.nbytes
    return total


def _code(model: Any, operator: Any) -> int:
    return builtin_code(model.operatorCodes[operator.opcodeIndex])
