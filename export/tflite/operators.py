"""Changes of a `.tflite` file's graphs: operators that unpack a sparse weight."""

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from spdf_keras.export.tflite.csr import CSR

# Version of DEQUANTIZE that knows a scale per row.
_PER_CHANNEL = 5

_VECTORS = {
    "uint8": (schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
    "uint16": (schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
    "int32": (schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
}


class SharedSparsity(schema.SparsityParametersT):
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


def insert_densify(
    model: Any, subgraph: Any, tensor: int, buffer: int, sparsity: SharedSparsity
) -> None:
    """Lets DENSIFY compute `tensor` from a new sparse tensor on `buffer`."""
    dense = subgraph.tensors[tensor]
    dense.buffer = 0  # nothing is stored: DENSIFY computes it
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
        opcodeIndex=code_index(model, schema.BuiltinOperator.DENSIFY),
        inputs=[len(subgraph.tensors) - 1],
        outputs=[tensor],
        builtinOptionsType=schema.BuiltinOptions.DensifyOptions,
        builtinOptions=schema.DensifyOptionsT(),
    )
    subgraph.operators.insert(0, operator)


def insert_dequantize(model: Any, subgraph: Any, tensor: int) -> None:
    """Lets FULLY_CONNECTED read int8 weights as float32, behind their DENSIFY."""
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
            # Version 1 computes in float32; the version that stood here takes int8.
            code = schema.BuiltinOperator.FULLY_CONNECTED
            operator.opcodeIndex = code_index(model, code, version=1)
            operator.builtinOptions.asymmetricQuantizeInputs = False
    operator = schema.OperatorT(
        opcodeIndex=code_index(
            model, schema.BuiltinOperator.DEQUANTIZE, version=_PER_CHANNEL
        ),
        inputs=[tensor],
        outputs=[len(subgraph.tensors) - 1],
        builtinOptionsType=schema.BuiltinOptions.DequantizeOptions,
        builtinOptions=schema.DequantizeOptionsT(),
    )
    subgraph.operators.insert(1, operator)


def builtin_code(code: Any) -> int:
    """Reads which operator an operator code names, in old and new files."""
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def code_index(model: Any, builtin: int, version: int = 1) -> int:
    """Finds the code of an operator in a file, or adds it; returns its index."""
    for index, code in enumerate(model.operatorCodes):
        if builtin_code(code) == builtin and code.version == version:
            return index
    # Codes below 127 stand in both fields, for old and new readers.
    model.operatorCodes.append(
        schema.OperatorCodeT(
            builtinCode=builtin, deprecatedBuiltinCode=builtin, version=version
        )
    )
    return len(model.operatorCodes) - 1
