"""Stores the zeros of a `.tflite` file's weights as an index: a post-pass.

The TFLite converter has an option for this (`EXPERIMENTAL_SPARSITY`). It writes
the index once per signature, needs nine times the weights in memory, and crashes
above 2 GB. This pass over the finished dense file has none of these faults.

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

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from spdf_keras.export.tflite.csr import CSR
from spdf_keras.export.tflite.flatbuffer import (
    MAX_FLATBUFFER_BYTES,
    read_flatbuffer,
    write_flatbuffer,
)
from spdf_keras.export.tflite.operators import (
    SharedSparsity,
    builtin_code,
    insert_densify,
    insert_dequantize,
)
from spdf_keras.export.tflite.sharing import share_quantization

# Types of weights that are encoded, and the NumPy types of their bytes.
_VALUES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
}


@dataclass(frozen=True)
class SparseReport:
    """Counts of what `sparse_encode` changed.

    Attributes:
        encoded: Distinct weights that are now stored as CSR.
        kept: Distinct weights of fully connected layers that stay dense.
        densify_ops: Operators that were added: one per weight and signature.
        dense_bytes: Bytes of the encoded weights before.
        sparse_bytes: Bytes of their values and indices now.
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
    `FULLY_CONNECTED` alone, directly or through `DEQUANTIZE`, and that get smaller.
    Values and index tables are stored once and shared by all signatures.

    Args:
        flatbuffer: The file, of any size.
        max_flatbuffer_bytes: A larger result has its data behind the flatbuffer,
            as the converter does above 2 GB. Older runtimes cannot read that
            form, so it is not used without need.

    Returns:
        The new file and what was done. Its outputs are those of the old file;
        it is the old file where no weight gets smaller.
    """
    model = read_flatbuffer(flatbuffer)
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
        sparsity = SharedSparsity(csr)
        model.buffers[index].data = csr.values.view(np.uint8)
        for subgraph, tensor in uses:
            insert_densify(model, subgraph, tensor, index, sparsity)
            if subgraph.tensors[tensor].type == schema.TensorType.INT8:
                insert_dequantize(model, subgraph, tensor)
    if not encoded:
        return flatbuffer, SparseReport(0, kept, 0, 0, 0)
    index_bytes += share_quantization(model)
    result = write_flatbuffer(model, index_bytes, max_flatbuffer_bytes)
    return result, SparseReport(encoded, kept, densify_ops, dense_bytes, sparse_bytes)


def _fully_connected_weights(model: Any) -> dict[int, list[tuple[Any, int]]]:
    """Finds buffers that are read as weights of FULLY_CONNECTED and nowhere else.

    Returns:
        For each buffer, the subgraphs and the tensors in them that stand for it.
    """
    uses: dict[int, list[tuple[Any, int]]] = defaultdict(list)
    others = {0}
    for subgraph in model.subgraphs:
        # Whether all readers of a tensor that were seen take it as such a weight.
        is_weight: dict[int, bool] = {
            tensor: False for tensor in (*subgraph.inputs, *subgraph.outputs)
        }
        # Backwards, so that the readers of a DEQUANTIZE's output come before it.
        for operator in reversed(subgraph.operators):
            code = builtin_code(model.operatorCodes[operator.opcodeIndex])
            inputs = [] if operator.inputs is None else operator.inputs
            for place, tensor in enumerate(inputs):
                good = code == schema.BuiltinOperator.FULLY_CONNECTED and place == 1
                if code == schema.BuiltinOperator.DEQUANTIZE:
                    good = is_weight.get(operator.outputs[0], False)
                is_weight[tensor] = is_weight.get(tensor, True) and good
        for index, tensor in enumerate(subgraph.tensors):
            if is_weight.get(index):
                uses[tensor.buffer].append((subgraph, index))
            else:
                others.add(tensor.buffer)
    return {
        index: places
        for index, places in uses.items()
        if index not in others and model.buffers[index].data is not None
    }


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
