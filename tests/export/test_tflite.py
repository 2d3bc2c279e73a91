import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import spdf_keras.export
from spdf_keras import GPT, strip
from spdf_keras.errors import InputError
from spdf_keras.export import ExportCard, ExportError, tflite, to_tflite
from spdf_keras.export.run_tflite import RunError, TFLiteModel
from spdf_keras.model.generation import effective_kernels

Files = dict[str, ExportCard]

RUNNER = Path(spdf_keras.export.__path__[0]) / "run_tflite.py"

# Sums of 64 to 256 float32 products in another order: 1e-6 of the largest logit.
TOLERANCE = 1e-5

PROMPTS = ([7], [1, 2, 3, 4, 5], list(range(100, 116)))

RUN_AND_LIST_MODULES = """
import runpy, sys
status = 0
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    status = end.code
loaded = {name.partition(".")[0] for name in sys.modules}
print(*sorted(loaded & {"spdf_keras", "tensorflow", "tf_keras", "keras", "jax"}))
sys.exit(status)
"""

OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items()}


def unpacked(card: ExportCard) -> Any:
    return schema.ModelT.InitFromPackedBuf(Path(card.path).read_bytes())


def operators(file: Any) -> dict[str, Counter[str]]:
    names = [OPERATORS[code.builtinCode] for code in file.operatorCodes]
    return {
        subgraph.name.decode(): Counter(
            names[o.opcodeIndex] for o in subgraph.operators
        )
        for subgraph in file.subgraphs
    }


@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_both_signatures_give_the_logits_of_one_forward_pass(
    model: GPT, files: Files, name: str
) -> None:
    interpreter = Interpreter(model_path=files[name].path)
    prefill = interpreter.get_signature_runner("prefill")
    decode = interpreter.get_signature_runner("decode")
    token_ids = np.random.default_rng(1).integers(512, size=(1, 48)).astype(np.int32)
    expected = model(token_ids).numpy()
    outputs = prefill(token_ids=token_ids[:, :16])
    logits = [outputs.pop("logits")]
    for position in range(16, 48):
        outputs = decode(
            token_ids=token_ids[:, position, None],
            position=np.array([position], np.int32),
            **outputs,
        )
        logits.append(outputs.pop("logits"))
    received = np.concatenate(logits, axis=1)
    atol = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(received, expected, atol=atol)


@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_greedy_continuations_are_those_of_the_keras_model(
    model: GPT, files: Files, name: str
) -> None:
    runner = TFLiteModel(files[name].path)
    received = [runner.generate(prompt, max_new_tokens=12) for prompt in PROMPTS]
    assert received == model.generate(PROMPTS, max_new_tokens=12)
    # As many as the caches hold, and stopping at an end token.
    assert len(runner.generate(PROMPTS[2], max_new_tokens=99)) == 48 - 16
    end = received[1][5]
    stopped = runner.generate(PROMPTS[1], 12, end_token_ids=[end])
    assert [stopped] == model.generate([PROMPTS[1]], 12, end_token_ids=[end])


def test_signatures_have_static_shapes_and_explicit_caches(files: Files) -> None:
    interpreter = Interpreter(model_path=files["dense"].path)
    caches = {name: (1, 4, 48, 16) for name in ("k_0", "v_0", "k_1", "v_1")}
    expected: Any = {
        "prefill": ({"token_ids": (1, 16)}, {"logits": (1, 16, 512), **caches}),
        "decode": (
            {"token_ids": (1, 1), "position": (1,), **caches},
            {"logits": (1, 1, 512), **caches},
        ),
    }
    assert set(interpreter.get_signature_list()) == set(expected)
    for name, (inputs, outputs) in expected.items():
        runner = interpreter.get_signature_runner(name)
        for details, shapes in (
            (runner.get_input_details(), inputs),
            (runner.get_output_details(), outputs),
        ):
            received = {key: tuple(value["shape"]) for key, value in details.items()}
            assert received == shapes
            # The sign of a free size, which costs the fast path.
            assert all(-1 not in value["shape_signature"] for value in details.values())


def test_only_builtin_operators_occur(files: Files) -> None:
    for card in files.values():
        file = unpacked(card)
        assert all(code.customCode is None for code in file.operatorCodes)
        assert not {"CUSTOM", "CALL_ONCE", "VAR_HANDLE"} & set().union(
            *operators(file).values()
        )


def test_masks_are_folded_into_the_weights(model: GPT, files: Files) -> None:
    file = unpacked(files["dense"])
    kernels = set()
    for block in effective_kernels(model):
        # The converter moves the attention's scale, head_dim ** -0.5, into the query.
        block = {**block, "query": block["query"] * 16**-0.5}
        kernels |= {(kernel.numpy() + 0.0).T.tobytes() for kernel in block.values()}
    shapes = {(64, 64), (256, 64), (64, 256)}
    names = [OPERATORS[code.builtinCode] for code in file.operatorCodes]
    for subgraph in file.subgraphs:
        readers: Counter[Any] = Counter()
        for operator in subgraph.operators:
            for tensor in (subgraph.tensors[index] for index in operator.inputs):
                if tuple(tensor.shape) in shapes:
                    data = file.buffers[tensor.buffer].data
                    is_kernel = data is not None and data.tobytes() in kernels
                    readers[names[operator.opcodeIndex], is_kernel] += 1
        # All 12, and no other operator meets such a matrix: no mask is multiplied.
        # The gather reads the position table, which is 64 x 64 too.
        others = {("GATHER", False): 1} if subgraph.name == b"decode" else {}
        assert readers == {("FULLY_CONNECTED", True): 12, **others}


def test_both_signatures_share_one_copy_of_the_weights(
    model: GPT, files: Files
) -> None:
    weights = 4 * model.sizes.num_parameters
    assert weights < files["dense"].size_bytes < 1.5 * weights


def test_the_sparse_file_is_smaller_and_unpacks_at_load(files: Files) -> None:
    dense, sparse = files["dense"], files["sparse"]
    assert dense.size_bytes == sparse.dense_size_bytes == dense.dense_size_bytes
    # 98304 kernel weights take 4 bytes each; a quarter of them 4 + 1 bytes each, and
    # the row pointers 2 bytes: 3.9e5 against 1.25e5 bytes. The rest stays.
    assert dense.size_bytes - sparse.size_bytes == pytest.approx(264_000, rel=0.03)
    # One per kernel and signature; the arrays behind them are shared.
    counts = operators(unpacked(sparse))
    assert {name: ops["DENSIFY"] for name, ops in counts.items()} == {
        "prefill": 6 * 2,
        "decode": 6 * 2,
    }
    dense_counts = operators(unpacked(dense))
    for name, ops in counts.items():
        assert ops - dense_counts[name] == {"DENSIFY": 12}
    assert "not a faster one" in sparse.notes[0]
    assert "12 weights encoded, 0 kept dense; 24 DENSIFY" in sparse.notes[-1]


def test_sparse_and_dense_file_give_the_same_bits(files: Files) -> None:
    dense, sparse = (TFLiteModel(files[name].path, 1) for name in ("dense", "sparse"))
    expected, received = (runner.prefill([3, 1, 4]) for runner in (dense, sparse))
    np.testing.assert_array_equal(received[0], expected[0])


def test_the_card_tells_size_error_and_sparsity(files: Files) -> None:
    for name, card in files.items():
        assert card.size_bytes == Path(card.path).stat().st_size
        assert card.sparsity == pytest.approx(0.75, abs=1e-4)
        assert 0 < card.relative_error < TOLERANCE
        assert card.format == ("tflite" if name == "dense" else "tflite_sparse")
    assert "neither smaller nor faster" in files["dense"].notes[0]


def test_without_zeros_the_sparse_file_is_the_dense_file(
    model: GPT, tmp_path: Path
) -> None:
    dense = strip(model)
    dense.set_weights([weight + 0.01 for weight in dense.get_weights()])
    card = to_tflite(dense, tmp_path / "m.tflite", True, prompt_length=4)
    assert card.sparsity == 0 and card.size_bytes == card.dense_size_bytes
    assert card.notes == (
        "No weight had enough zeros to become smaller: this is the dense file.",
    )


def test_a_wrong_file_is_not_delivered(
    model: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_a_weight(flatbuffer: bytes) -> tuple[bytes, Any]:
        output = effective_kernels(model)[0]["output"].numpy() + 0.0
        kernel = output.T.tobytes()
        assert kernel in flatbuffer
        return flatbuffer.replace(kernel, b"\0" * len(kernel)), None

    monkeypatch.setattr(tflite, "sparse_encode", lose_a_weight)
    with pytest.raises(ExportError, match="logits differ from the Keras model's by"):
        to_tflite(model, tmp_path / "m.tflite", True, prompt_length=8)
    assert not list(tmp_path.iterdir())


def test_lengths_and_paths_are_checked_before_the_work(
    model: GPT, files: Files, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"`cache_length` must be in \[1, 64\]"):
        to_tflite(model, tmp_path / "m.tflite", cache_length=65)
    with pytest.raises(InputError, match=r"`prompt_length` must be in \[1, 32\]"):
        to_tflite(model, tmp_path / "m.tflite", prompt_length=33, cache_length=32)
    with pytest.raises(
        InputError, match="`path` must be new. Received: .* which exists"
    ):
        to_tflite(model, files["dense"].path)
    with pytest.raises(InputError, match="must name a file. Received: .* is a folder"):
        to_tflite(model, tmp_path, overwrite=True)
    with pytest.raises(InputError, match="must be a GPT .* Received: str"):
        to_tflite("gpt", tmp_path / "m.tflite")  # type: ignore[arg-type]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = RUN_AND_LIST_MODULES.replace("sys.argv[0]", repr(str(RUNNER)))
    # Isolated: the working folder and PYTHONPATH do not help it.
    command = [sys.executable, "-I", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_runner_needs_the_runtime_alone(model: GPT, files: Files) -> None:
    path = files["sparse"].path
    done = run(path, "--token-ids", "1,2,3,4,5", "--max-new-tokens", "10")
    assert done.returncode == 0, done.stderr
    result, loaded = done.stdout.splitlines()
    (expected,) = model.generate([[1, 2, 3, 4, 5]], max_new_tokens=10)
    assert json.loads(result) == {
        "token_ids": [1, 2, 3, 4, 5],
        "new_token_ids": expected,
    }
    assert loaded == ""


def test_the_runner_ends_with_one_sentence_and_status_2(files: Files) -> None:
    done = run(files["dense"].path, "--token-ids", "1,512")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last == "Token ids must be in [0, 512). Received: 1 to 512."


def test_what_cannot_be_run_is_told_in_one_sentence(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from spdf_keras.export.run_tflite import main

    dense = files["dense"].path
    (tmp_path / "no.tflite").write_bytes(b"no model" * 8)
    for arguments, sentence in (
        (
            [dense, "--token-ids", ",".join("1" * 17)],
            "A prompt must have 1 to 16 tokens",
        ),
        ([dense, "--token-ids", ""], "A prompt must have 1 to 16 tokens"),
        ([dense, "--token-ids", "-1"], "Token ids must be in [0, 512)"),
        ([dense, "--token-ids", "1,two"], "Token ids must be integers"),
        ([str(tmp_path / "none.tflite"), "--token-ids", "1"], "There is no file"),
        ([str(tmp_path / "no.tflite"), "--token-ids", "1"], "Cannot load"),
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith(sentence)


def test_a_prompt_that_fills_the_file_is_the_longest(files: Files) -> None:
    runner = TFLiteModel(files["dense"].path)
    assert runner.prefill([1] * 16)[0].shape == (16, 512)
    with pytest.raises(
        RunError, match="1 to 16 tokens, the prompt length of this file"
    ):
        runner.prefill([1] * 17)


def test_importing_the_package_loads_nothing() -> None:
    program = "import sys, spdf_keras.export as e; e.ExportCard; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"tensorflow", "tf_keras", "ai_edge_litert"} & set(done.stdout.split())
    with pytest.raises(AttributeError, match="has no attribute 'to_onnx'"):
        spdf_keras.export.to_onnx  # noqa: B018
