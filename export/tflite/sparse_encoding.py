"""Stores the zeros of a `.tflite` file's weights as an index: a post-pass.

The TFLite converter has an option for this (`EXPERIMENTAL_SPARSITY`). It writes
the index once per signature, needs nine times the weights in memory, and crashes
above 2 GB. Doing it on the finished dense file has none of these faults.

A sparse weight `W` is stored as CSR and unpacked by a `DENSIFY` operator in front
of the `FULLY_CONNECTED` that reads it, or of the `DEQUANTIZE` between them. Runtimes
do this when they load the file: it gets smaller, but neither faster nor lighter in
memory.

An int8 weight that `FULLY_CONNECTED` reads itself gets a `DEQUANTIZE` too, and is
then multiplied in float32: with the unpacked int8 weight the default runtime does
not load the file, and with blocks of 1x16 it computes wrong results in silence.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from spdf_keras.export.tflite.csr import CSR

# Data may lie inside the flatbuffer up to this size, as all runtimes expect it; its
# offsets end at 2 GiB, and the tables need some room too.
MAX_FLATBUFFER_BYTES = 2**31 - 2**25

# Runtimes read weights in place, and some of their kernels want them aligned.
_ALIGNMENT = 64

# Version of DEQUANTIZE that knows a scale per row.
_PER_CHANNEL = 5

_IDENTIFIER = b"TFL3"
_OUTSIDE = b"buffer_location", b"outside flatbuffers"
# Types of weights, and the NumPy types of their bytes.
_VALUES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
}
_VECTORS = {
    "uint8": (schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
    "uint16": (schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
    "int32": (schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
}


@dataclass(frozen=True)
class SparseReport:
    """What `sparse_encode` did.

    Attributes:
        encoded: Distinct weights that are now stored as CSR.
        kept: Distinct weights of fully connected layers that stay dense.
        densify_ops: Operators that were added: one per weight and signature.
        dense_bytes: What the encoded weights took.
        sparse_bytes: What they take now, values and indices.
    """

    encoded: int
    kept: int
    densify_ops: int
    dense_bytes: int
    sparse_bytes: int


def sparse_encode(
    flatbuffer: bytes, max_flatbuffer_bytes: int = MAX_FLATBUFFER_BYTES
) -> tuple[bytes, SparseReport]:
    """Encodes the sparse weights of a `.tflite` file.

    It takes constant matrices, float32, float16 or int8, that are read by
    `FULLY_CONNECTED` alone, be it through `DEQUANTIZE`, and that get smaller. Values
    and index tables are stored once and shared by all signatures.

    Args:
        flatbuffer: The file, of any size.
        max_flatbuffer_bytes: A larger result has its data behind the flatbuffer,
            as the converter does above 2 GB. Older runtimes cannot read that
            form, so it is not used without need.

    Returns:
        The new file and what was done. Its outputs are those of the old file;
        it is the old file where no weight gets smaller.
    """
    model = schema.ModelT.InitFromPackedBuf(flatbuffer)
    _view_outside_data(model, flatbuffer)
    encoded = kept = densify_ops = dense_bytes = sparse_bytes = index_bytes = 0
    for index, uses in _fully_connected_weights(model).items():
        csr = _encode_if_smaller(model, index, uses)
        if csr is None:
            kept += 1
            continue
        encoded += 1
        densify_ops += len(uses)
        dense_bytes += model.buffers[index].data.nbytes
        sparse_bytes += csr.size_bytes
        index_bytes += csr.size_bytes - csr.values.nbytes
        sparsity = _SharedSparsity(csr)
        model.buffers[index].data = csr.values.view(np.uint8)
        for subgraph, tensor in uses:
            _insert_densify(model, subgraph, tensor, index, sparsity)
            if subgraph.tensors[tensor].type == schema.TensorType.INT8:
                _insert_dequantize(model, subgraph, tensor)
    if not encoded:
        return flatbuffer, SparseReport(0, kept, 0, 0, 0)
    result = _write(model, index_bytes, max_flatbuffer_bytes)
    return result, SparseReport(encoded, kept, densify_ops, dense_bytes, sparse_bytes)


def _view_outside_data(model: Any, flatbuffer: bytes) -> None:
    """Brings buffers that lie behind the flatbuffer into `data`, uncopied."""
    everything = np.frombuffer(flatbuffer, np.uint8)
    for buffer in model.buffers:
        if buffer.offset > 1:  # 0 and 1 mean: no data there
            buffer.data = everything[buffer.offset : buffer.offset + buffer.size]
        buffer.offset = buffer.size = 0
    model.metadata = [m for m in model.metadata or [] if m.name != _OUTSIDE[0]]


def _fully_connected_weights(model: Any) -> dict[int, list[tuple[Any, int]]]:
    """Buffers that are read as the weights of FULLY_CONNECTED and nowhere else.

    Returns:
        By buffer, the subgraphs and tensors that stand for it.
    """
    uses: dict[int, list[tuple[Any, int]]] = defaultdict(list)
    others = {0}
    for subgraph in model.subgraphs:
        # Backwards, since a DEQUANTIZE stands before those that read its output.
        readers: dict[int, bool] = {
            tensor: False for tensor in (*subgraph.inputs, *subgraph.outputs)
        }
        for operator in reversed(subgraph.operators):
            code = _builtin(model.operatorCodes[operator.opcodeIndex])
            inputs = [] if operator.inputs is None else operator.inputs
            for place, tensor in enumerate(inputs):
                good = code == schema.BuiltinOperator.FULLY_CONNECTED and place == 1
                if code == schema.BuiltinOperator.DEQUANTIZE:
                    good = readers.get(operator.outputs[0], False)
                readers[tensor] = readers.get(tensor, True) and good
        for index, tensor in enumerate(subgraph.tensors):
            if readers.get(index):
                uses[tensor.buffer].append((subgraph, index))
            else:
                others.add(tensor.buffer)
    return {
        index: places
        for index, places in uses.items()
        if index not in others and model.buffers[index].data is not None
    }


def _builtin(code: Any) -> int:
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def _encode_if_smaller(
    model: Any, index: int, uses: list[tuple[Any, int]]
) -> CSR | None:
    tensor, *others = (subgraph.tensors[number] for subgraph, number in uses)
    if any(tuple(other.shape) != tuple(tensor.shape) for other in others):
        return None
    if tensor.type not in _VALUES or len(tensor.shape) != 2 or tensor.sparsity:
        return None
    dense = model.buffers[index].data.view(_VALUES[tensor.type]).reshape(tensor.shape)
    if np.count_nonzero(dense) == dense.size:
        return None
    csr = CSR.encode(dense)
    # A buffer without a single value would read as one that is not constant.
    return csr if 0 < csr.values.nbytes and csr.size_bytes < dense.nbytes else None


class _SharedSparsity(schema.SparsityParametersT):
    """CSR indices that are written once, however many tensors point to them."""

    def __init__(self, csr: CSR) -> None:
        rows = schema.DimensionMetadataT(
            format=schema.DimensionType.DENSE, denseSize=csr.shape[0]
        )
        columns = schema.DimensionMetadataT(
            format=schema.DimensionType.SPARSE_CSR, denseSize=csr.shape[1]
        )
        columns.arraySegmentsType, vector = _VECTORS[csr.segments.dtype.name]
        columns.arraySegments = vector(csr.segments)
        columns.arrayIndicesType, vector = _VECTORS[csr.indices.dtype.name]
        columns.arrayIndices = vector(csr.indices)
        super().__init__(traversalOrder=[0, 1], dimMetadata=[rows, columns])
        self._written: tuple[Any, int] | None = None

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the name is the parent's)
        if self._written is None or self._written[0] is not builder:
            self._written = builder, super().Pack(builder)
        return self._written[1]


def _insert_densify(
    model: Any, subgraph: Any, tensor: int, buffer: int, sparsity: Any
) -> None:
    """Lets DENSIFY compute `tensor` from a new sparse tensor on `buffer`."""
    dense = subgraph.tensors[tensor]
    dense.buffer = 0  # nothing stored: it is computed now
    sparse = schema.TensorT(
        shape=dense.shape,
        type=dense.type,
        buffer=buffer,
        name=dense.name + b"/sparse",
        sparsity=sparsity,
        hasRank=True,
    )
    subgraph.tensors.append(sparse)
    operator = schema.OperatorT(
        opcodeIndex=_code(model, schema.BuiltinOperator.DENSIFY),
        inputs=[len(subgraph.tensors) - 1],
        outputs=[tensor],
        builtinOptionsType=schema.BuiltinOptions.DensifyOptions,
        builtinOptions=schema.DensifyOptionsT(),
    )
    subgraph.operators.insert(0, operator)


def _insert_dequantize(model: Any, subgraph: Any, tensor: int) -> None:
    """Lets FULLY_CONNECTED read int8 weights as float32; DENSIFY stands first."""
    integers = subgraph.tensors[tensor]
    floats = schema.TensorT(
        shape=integers.shape,
        type=schema.TensorType.FLOAT32,
        buffer=0,
        name=integers.name + b"/float",
        hasRank=True,
    )
    subgraph.tensors.append(floats)
    for operator in subgraph.operators:
        if operator.inputs is not None and tensor in operator.inputs:
            operator.inputs = [
                len(subgraph.tensors) - 1 if i == tensor else i for i in operator.inputs
            ]
            # Version 1 is float32; what it was is for int8 weights.
            code = schema.BuiltinOperator.FULLY_CONNECTED
            operator.opcodeIndex = _code(model, code, version=1)
            operator.builtinOptions.asymmetricQuantizeInputs = False
    operator = schema.OperatorT(
        opcodeIndex=_code(
            model, schema.BuiltinOperator.DEQUANTIZE, version=_PER_CHANNEL
        ),
        inputs=[tensor],
        outputs=[len(subgraph.tensors) - 1],
        builtinOptionsType=schema.BuiltinOptions.DequantizeOptions,
        builtinOptions=schema.DequantizeOptionsT(),
    )
    subgraph.operators.insert(1, operator)


def _code(model: Any, builtin: int, version: int = 1) -> int:
    """The place of an operator of a version among the file's, added if it is new."""
    for index, code in enumerate(model.operatorCodes):
        if _builtin(code) == builtin and code.version == version:
            return index
    # Codes below 127 stand in both fields, for old and new readers.
    model.operatorCodes.append(
        schema.OperatorCodeT(
            builtinCode=builtin, deprecatedBuiltinCode=builtin, version=version
        )
    )
    return len(model.operatorCodes) - 1


class _Buffer(schema.BufferT):
    """A buffer whose data starts at a multiple of `_ALIGNMENT`."""

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the name is the parent's)
        if self.data is None:
            return super().Pack(builder)
        # The parent's vectors of bytes start anywhere.
        size = len(self.data)
        builder.StartVector(1, size, _ALIGNMENT)
        builder.head -= size
        builder.Bytes[builder.head : builder.head + size] = self.data.tobytes()
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def _write(model: Any, index_bytes: int, max_flatbuffer_bytes: int) -> bytes:
    stored = [buffer.data for buffer in model.buffers if buffer.data is not None]
    total = index_bytes + sum(_padded(len(data)) for data in stored)
    if total <= max_flatbuffer_bytes:
        model.buffers = [_Buffer(buffer.data) for buffer in model.buffers]
        return _pack(model, total)
    # Runtimes look outside for the data of tensors, not for that of metadata.
    used = {t.buffer for subgraph in model.subgraphs for t in subgraph.tensors}
    outside = [
        buffer
        for index, buffer in enumerate(model.buffers)
        if index in used and buffer.data is not None
    ]
    data = [buffer.data for buffer in outside]
    for buffer in outside:
        buffer.data, buffer.offset, buffer.size = None, 1, 1
    name, value = _OUTSIDE
    model.buffers.append(schema.BufferT(np.frombuffer(value, np.uint8)))
    model.metadata.append(schema.MetadataT(name, len(model.buffers) - 1))
    # Once to learn how long the flatbuffer is, then with the offsets behind it.
    end = _padded(len(_pack(model, index_bytes)))
    for buffer, part in zip(outside, data, strict=True):
        buffer.offset, buffer.size = end, len(part)
        end += _padded(len(part))
    parts = [_pack(model, index_bytes), *data]
    return b"".join(
        piece for part in parts for piece in (part, b"\0" * (-len(part) % _ALIGNMENT))
    )


def _pack(model: Any, size_hint: int) -> bytes:
    builder = flatbuffers.Builder(min(size_hint + 2**16, 2**31))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
