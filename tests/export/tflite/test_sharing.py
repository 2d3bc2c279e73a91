from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from spdf_keras import GPT
from spdf_keras.export.graphs import FoldedKernels
from spdf_keras.export.tflite.conversion import convert, write
from spdf_keras.export.tflite.sharing import share_int8
from spdf_keras.export.tflite.signatures import TFLitePlan, trace_signatures

CACHE = 48


@pytest.fixture(scope="module")
def contents(small_model: GPT, tmp_path_factory: Any) -> dict[str, bytes]:
    """A float32 file, the converter's int8 file, and the one that shares its table."""
    from spdf_keras.export.tflite import conversion

    stage: Path = tmp_path_factory.mktemp("stage") / "m"
    plan = TFLitePlan(8, CACHE, "last")
    kernels = FoldedKernels(small_model)
    functions = trace_signatures(small_model, kernels, plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "share_int8", lambda content: content)
        plain = convert(functions, "int8", stage)
    return {
        "float": convert(functions, "none", stage),
        "plain": plain,
        "shared": share_int8(plain),
    }


def tables(content: bytes, code: int) -> list[tuple[Any, Any]]:
    """The constant inputs of an operator: tensors, and their bytes."""
    file: Any = schema.ModelT.InitFromPackedBuf(content)
    return [
        (tensor, file.buffers[tensor.buffer].data)
        for subgraph in file.subgraphs
        for operator in subgraph.operators
        if file.operatorCodes[operator.opcodeIndex].builtinCode == code
        for tensor in (subgraph.tensors[index] for index in operator.inputs)
        if file.buffers[tensor.buffer].data is not None
    ]


def logits(content: bytes, resolver: Any = OpResolverType.AUTO) -> Any:
    """Logits after a prompt of five tokens, and after one more."""
    interpreter = Interpreter(
        model_content=content, num_threads=1, experimental_op_resolver_type=resolver
    )
    prompt = np.array([[5, 400, 511, 0, 77, 0, 0, 0]], np.int32)
    prefill = interpreter.get_signature_runner("prefill")
    first = prefill(token_ids=prompt, lengths=np.array([5], np.int32))
    rows = [first.pop("logits")]
    decode = interpreter.get_signature_runner("decode")
    token, position = np.array([[9]], np.int32), np.array([5], np.int32)
    rows.append(decode(token_ids=token, position=position, **first)["logits"])
    return np.concatenate(rows)


def test_the_token_table_of_an_int8_file_is_stored_once(
    contents: dict[str, bytes],
) -> None:
    gather = schema.BuiltinOperator.GATHER
    fully_connected = schema.BuiltinOperator.FULLY_CONNECTED
    for name, count in (("plain", 2), ("shared", 1)):
        found = {
            tensor.buffer
            for code in (gather, fully_connected)
            for tensor, _ in tables(contents[name], code)
            if tuple(tensor.shape) == (512, 64)
        }
        assert len(found) == count
    saved = len(contents["plain"]) - len(contents["shared"])
    # The table takes a byte per entry, and the scales of its rows are added.
    assert saved > 512 * 64 - 4 * 512


def test_a_lookup_gives_the_rows_that_are_multiplied(
    small_model: GPT, contents: dict[str, bytes]
) -> None:
    interpreter = Interpreter(
        model_content=contents["shared"],
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    (tokens,) = (
        d["index"]
        for d in interpreter.get_input_details()
        if tuple(d["shape"]) == (1, 1)
    )
    operators = interpreter._get_ops_details()
    (looked_up,) = (
        int(operator["outputs"][0])
        for before, operator in zip(operators, operators[1:], strict=False)
        if (before["op_name"], operator["op_name"]) == ("GATHER", "MUL")
    )
    table = small_model.embedding.token_table.numpy()
    for token in (0, 7, 511):
        interpreter.set_tensor(tokens, np.array([[token]], np.int32))
        interpreter.invoke()
        received = interpreter.get_tensor(looked_up)[0, 0]
        # By hand: a scale of 127 steps up to the row's largest entry.
        scale = np.abs(table[token]).max() / 127
        expected = np.round(table[token] / scale) * scale
        np.testing.assert_allclose(received, expected, atol=1e-5 * scale * 127)


@pytest.mark.parametrize(
    "resolver", [OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES]
)
def test_logits_stay_near_the_float32_file(
    contents: dict[str, bytes], resolver: Any
) -> None:
    expected = logits(contents["float"])
    error = np.abs(logits(contents["shared"], resolver) - expected).max()
    assert 0 < error < 0.05 * np.abs(expected).max()


def test_data_may_lie_behind_the_flatbuffer(contents: dict[str, bytes]) -> None:
    outside = share_int8(contents["plain"], max_flatbuffer_bytes=10_000)
    np.testing.assert_array_equal(logits(outside), logits(contents["shared"]))


def test_sparse_weights_share_their_scales_too(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    encoding = write(contents["shared"], tmp_path / "m.tflite", True, "int8")
    assert encoding.encoded
    expected = logits(contents["float"])
    error = np.abs(logits((tmp_path / "m.tflite").read_bytes()) - expected).max()
    assert 0 < error < 0.05 * np.abs(expected).max()


def test_a_file_without_a_second_table_computes_the_same(
    contents: dict[str, bytes],
) -> None:
    for name in ("float", "shared"):
        again = share_int8(contents[name])
        np.testing.assert_array_equal(logits(again), logits(contents[name]))
        assert len(again) < len(contents[name]) + 4096


def test_positions_beyond_the_cache_are_left_out(contents: dict[str, bytes]) -> None:
    gathered = tables(contents["float"], schema.BuiltinOperator.GATHER)
    assert {tuple(tensor.shape) for tensor, _ in gathered} == {(512, 64), (CACHE, 64)}
