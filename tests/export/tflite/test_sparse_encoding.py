from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spdf_keras.export import ExportCard
from spdf_keras.export.tflite.csr import CSR
from spdf_keras.export.tflite.sparse_encoding import sparse_encode

Matrix = NDArray[np.float32]


def random_matrix(rows: int, columns: int, sparsity: float, seed: int = 0) -> Matrix:
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, columns)).astype(np.float32)
    matrix[random.random((rows, columns)) < sparsity] = 0
    return matrix


def linear_file(weight: Matrix, offsets: bool = False, extra: bool = False) -> bytes:
    """A file that computes `x @ weight.T`; `extra` lets another operator read it."""

    def function(x: tf.Tensor) -> tf.Tensor:
        kernel = tf.constant(weight)
        y = tf.matmul(x, kernel, transpose_b=True)
        return y + tf.gather(kernel, tf.cast(x[0, :1], tf.int32))[0, 0] if extra else y

    spec = tf.TensorSpec((1, weight.shape[1]), tf.float32, "x")
    concrete = tf.function(function, autograph=False).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    # The form that the converter itself chooses above 2 GB.
    converter._experimental_use_buffer_offset = offsets
    return converter.convert()


def outputs(flatbuffer: bytes, x: Matrix) -> Matrix:
    interpreter = Interpreter(model_content=flatbuffer, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def stored_matrices(flatbuffer: bytes) -> list[tuple[Any, Matrix]]:
    """Decodes each sparse tensor; with the place of its index tables in the file."""
    model = schema.Model.GetRootAs(flatbuffer)
    file = schema.ModelT.InitFromPackedBuf(flatbuffer)
    found = []
    for number, subgraph in enumerate(file.subgraphs):
        for index, tensor in enumerate(subgraph.tensors):
            if tensor.sparsity is None:
                continue
            assert list(tensor.sparsity.traversalOrder) == [0, 1]
            rows, columns = tensor.sparsity.dimMetadata
            assert (rows.denseSize, columns.denseSize) == tuple(tensor.shape)
            buffer = file.buffers[tensor.buffer]
            data = buffer.data
            if buffer.offset > 1:
                data = flatbuffer[buffer.offset : buffer.offset + buffer.size]
            csr = CSR(
                tuple(tensor.shape),
                columns.arraySegments.values,
                columns.arrayIndices.values,
                np.frombuffer(data, np.float32),
            )
            place = model.Subgraphs(number).Tensors(index).Sparsity()._tab.Pos
            found.append((place, csr.decode()))
    return found


def test_a_matrix_by_hand() -> None:
    csr = CSR.encode(np.array([[0, 5, 0], [0, 0, 0], [7, 0, 8]], np.float32))
    assert csr.segments.tolist() == [0, 1, 1, 3]
    assert csr.indices.tolist() == [1, 0, 2]
    assert csr.values.tolist() == [5, 7, 8]
    # 4 + 3 indices of a byte, 3 values of 4.
    assert csr.size_bytes == 19


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.one_of(st.integers(1, 40), st.integers(250, 300)),
    sparsity=st.floats(0, 1),
    empty_and_full=st.tuples(st.integers(0, 39), st.integers(0, 39)),
    seed=st.integers(0, 1000),
)
def test_encoding_gives_the_same_bits_back(
    rows: int, columns: int, sparsity: float, empty_and_full: Any, seed: int
) -> None:
    matrix = random_matrix(rows, columns, sparsity, seed)
    empty, full = empty_and_full
    matrix[empty % rows] = 0
    # Odd, and none of them zero to the bit.
    matrix[full % rows] = (np.nan, 1e-42, -0.0)[seed % 3]
    decoded = CSR.encode(matrix).decode()
    assert decoded.dtype == matrix.dtype
    np.testing.assert_array_equal(decoded.view(np.int32), matrix.view(np.int32))


@pytest.mark.parametrize(
    ("shape", "segments", "indices"),
    [
        ((3, 256), "uint16", "uint8"),
        ((3, 257), "uint16", "uint16"),
        ((300, 256), "int32", "uint8"),
        ((1, 65536), "int32", "uint16"),
        ((1, 65537), "int32", "int32"),
    ],
)
def test_indices_have_the_narrowest_type(
    shape: tuple[int, int], segments: str, indices: str
) -> None:
    csr = CSR.encode(np.ones(shape, np.float32))
    assert (csr.segments.dtype, csr.indices.dtype) == (segments, indices)
    assert csr.decode().all()


@pytest.mark.parametrize("columns", [40, 300])
@pytest.mark.parametrize("outside", [False, True])
def test_a_runtime_computes_the_same_bits(columns: int, outside: bool) -> None:
    weight = random_matrix(96, columns, 0.75)
    weight[5], weight[6] = 0, 1
    dense, x = linear_file(weight), random_matrix(1, columns, 0)
    sparse, report = sparse_encode(dense, 0 if outside else 2**30)
    assert (report.encoded, report.kept, report.densify_ops) == (1, 0, 1)
    assert report.dense_bytes == weight.nbytes
    assert len(dense) - len(sparse) > 0.8 * (report.dense_bytes - report.sparse_bytes)
    np.testing.assert_array_equal(outputs(sparse, x), outputs(dense, x))
    ((_, stored),) = stored_matrices(sparse)
    np.testing.assert_array_equal(stored, weight)


def test_data_behind_the_flatbuffer_is_read() -> None:
    weight, x = random_matrix(96, 40, 0.75), random_matrix(1, 40, 0)
    dense = linear_file(weight, offsets=True)
    assert max(b.offset for b in schema.ModelT.InitFromPackedBuf(dense).buffers) > 1
    for limit in (0, 2**30):
        sparse, report = sparse_encode(dense, limit)
        assert report.encoded == 1
        np.testing.assert_array_equal(outputs(sparse, x), outputs(dense, x))


@pytest.mark.parametrize("outside", [False, True])
def test_weights_are_aligned_for_vector_units(outside: bool) -> None:
    dense = linear_file(random_matrix(96, 40, 0.75))
    sparse, _ = sparse_encode(dense, 0 if outside else 2**30)
    model = schema.Model.GetRootAs(sparse)
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.DataLength():
            field = buffer._tab.Offset(4)
            assert outside or buffer._tab.Vector(field) % 64 == 0
        assert buffer.Offset() % 64 == 0 and (buffer.Offset() > 0) >= (
            buffer.Size() > 1
        )


@pytest.mark.parametrize(
    ("weight", "extra"),
    [
        (random_matrix(96, 40, 0.15), False),  # too few zeros
        (random_matrix(1, 70_000, 0.4), False),  # 4-byte indices eat up the gain
        (np.zeros((96, 40), np.float32), False),  # no value is left to store
        (random_matrix(96, 40, 0.75), True),  # a gather reads it too
    ],
)
def test_other_weights_stay_as_they_are(weight: Matrix, extra: bool) -> None:
    dense = linear_file(weight, extra=extra)
    sparse, report = sparse_encode(dense)
    assert sparse is dense
    assert report.encoded == report.densify_ops == report.sparse_bytes == 0


def test_encoding_twice_changes_nothing() -> None:
    sparse, _ = sparse_encode(linear_file(random_matrix(96, 40, 0.75)))
    again, report = sparse_encode(sparse)
    assert again is sparse and report.encoded == 0


@pytest.mark.parametrize("outside", [False, True])
def test_a_models_weights_come_back_and_signatures_share_them(
    files: dict[str, ExportCard], outside: bool
) -> None:
    dense = Path(files["dense"].path).read_bytes()
    sparse, _ = sparse_encode(dense, 0 if outside else 2**30)
    if not outside:
        assert sparse == Path(files["sparse"].path).read_bytes()
    # In the dense file they are plain bytes, and in the new one no longer.
    stored = stored_matrices(sparse)
    assert len(stored) == 2 * 12 and len({place for place, _ in stored}) == 12
    for _, matrix in stored:
        assert matrix.tobytes() in dense and matrix.tobytes() not in sparse
