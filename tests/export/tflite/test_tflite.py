import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import spdf_keras.export
from spdf_keras import GPT, GPTConfig, build_gpt, strip
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.export import ExportCard, ExportError, to_tflite
from spdf_keras.export.runners.profile_tflite import ProfileError, profile
from spdf_keras.export.runners.run_tflite import RunError, TFLiteModel
from spdf_keras.export.tflite import conversion
from spdf_keras.model.decoding.passes import effective_kernels

Files = dict[str, ExportCard]

RUNNER = Path(spdf_keras.export.__path__[0]) / "runners" / "run_tflite.py"

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
    # The caches of the padding are overwritten before they are read.
    outputs = prefill(token_ids=token_ids[:, :16], lengths=np.array([11], np.int32))
    logits = [outputs.pop("logits")]
    for position in range(11, 48):
        outputs = decode(
            token_ids=token_ids[:, position, None],
            position=np.array([position], np.int32),
            **outputs,
        )
        logits.append(outputs.pop("logits"))
    received = np.concatenate(logits, axis=1)
    atol = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(received, expected[:, 10:], atol=atol)


def test_a_file_may_have_the_logits_of_all_tokens(
    model: GPT, files: Files, tmp_path: Path
) -> None:
    card = to_tflite(
        model,
        tmp_path / "all.tflite",
        prompt_length=16,
        cache_length=48,
        logits="all",
    )
    runner, last = TFLiteModel(card.path), TFLiteModel(files["dense"].path)
    expected = model(np.array([PROMPTS[1]])).numpy()[0]
    received, _ = runner.prefill(PROMPTS[1])
    atol = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(received, expected, atol=atol)
    np.testing.assert_allclose(last.prefill(PROMPTS[1])[0], expected[-1:], atol=atol)
    assert runner.generate(PROMPTS[1], 9) == last.generate(PROMPTS[1], 9)
    with pytest.raises(InputError, match="`logits` must be one of last, all"):
        to_tflite(model, tmp_path / "m.tflite", logits="first")


@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_greedy_continuations_are_those_of_the_keras_model(
    model: GPT, files: Files, name: str
) -> None:
    runner = TFLiteModel(files[name].path)
    received = [runner.generate(prompt, max_new_tokens=32) for prompt in PROMPTS]
    assert received == model.generate(PROMPTS, max_new_tokens=32)
    # As many as the caches hold, and stopping at an end token.
    assert len(runner.generate(PROMPTS[2], max_new_tokens=99)) == 48 - 16
    end = received[1][5]
    stopped = runner.generate(PROMPTS[1], 32, end_token_ids=[end])
    assert [stopped] == model.generate([PROMPTS[1]], 32, end_token_ids=[end])


def test_decode_may_return_the_rows_that_the_caller_writes(
    model: GPT, files: Files, tmp_path: Path
) -> None:
    card = to_tflite(
        model,
        tmp_path / "rows.tflite",
        prompt_length=16,
        cache_length=48,
        cache_outputs="row",
    )
    interpreter = Interpreter(model_path=card.path)
    outputs = interpreter.get_signature_runner("decode").get_output_details()
    assert {name: tuple(value["shape"]) for name, value in outputs.items()} == {
        "logits": (1, 1, 512),
        **{f"new_{part}_{block}": (1, 4, 1, 16) for part in "kv" for block in (0, 1)},
    }
    rows, whole = TFLiteModel(card.path), TFLiteModel(files["dense"].path)
    for prompt in PROMPTS:
        assert rows.generate(prompt, 32) == whole.generate(prompt, 32)
    assert card.relative_error is not None and card.relative_error < TOLERANCE
    assert len(delegated(unpacked(card))) == 1  # of decode, which is the first
    with pytest.raises(InputError, match="`cache_outputs` must be one of whole, row"):
        to_tflite(model, tmp_path / "m.tflite", cache_outputs="rows")


def test_signatures_have_static_shapes_and_explicit_caches(files: Files) -> None:
    interpreter = Interpreter(model_path=files["dense"].path)
    caches = {name: (1, 4, 48, 16) for name in ("k_0", "v_0", "k_1", "v_1")}
    expected: Any = {
        "prefill": (
            {"token_ids": (1, 16), "lengths": (1,)},
            {"logits": (1, 1, 512), **caches},
        ),
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
        assert readers == {("FULLY_CONNECTED", True): 12}


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
    assert not any(r.skips_zeros for r in sparse.runtimes if not r.library)
    assert sparse.bound_size_bytes < sparse.size_bytes < 1.2 * sparse.bound_size_bytes
    assert (
        "12 weights are encoded, 0 are dense; the file has 24 DENSIFY"
        in sparse.notes[-1]
    )


def test_sparse_and_dense_file_give_the_same_bits(files: Files) -> None:
    dense, sparse = (TFLiteModel(files[name].path, 1) for name in ("dense", "sparse"))
    expected, received = (runner.prefill([3, 1, 4]) for runner in (dense, sparse))
    np.testing.assert_array_equal(received[0], expected[0])


def test_the_card_tells_size_error_and_sparsity(files: Files) -> None:
    for name, card in files.items():
        assert card.size_bytes == Path(card.path).stat().st_size
        assert card.sparsity == pytest.approx(0.75, abs=1e-4)
        assert card.relative_error is not None
        assert 0 < card.relative_error < TOLERANCE
        assert card.format == ("tflite" if name == "dense" else "tflite_sparse")
        stored = json.loads(Path(f"{card.path}.card.json").read_text())
        assert stored["size_bytes"] == card.size_bytes
    delegate, xnnpack, *_ = files["dense"].runtimes
    assert "This file has 75%" in delegate.reason
    assert "Zeros are stored" in xnnpack.reason


def test_without_zeros_the_sparse_file_is_the_dense_file(
    sizes: GPTConfig, tmp_path: Path
) -> None:
    dense = strip(build_gpt(sizes, 0.75))
    dense.set_weights([weight + 0.01 for weight in dense.get_weights()])
    card = to_tflite(dense, tmp_path / "m.tflite", True, prompt_length=4)
    assert card.sparsity == 0 and card.size_bytes == card.dense_size_bytes
    assert card.notes == (
        "No weight had enough zeros to become smaller: this is the dense file.",
    )


# Of the largest logit, 3.1: float16 has 11 bits, int8 scales have 8 a row.
QUANTIZED = {
    ("fp16", False): 2e-3,
    ("fp16", True): 2e-3,
    ("int8", False): 5e-2,
    ("int8", True): 5e-2,
}


@pytest.fixture(scope="module")
def quantized(
    model: GPT, tmp_path_factory: Any, _models_are_converted_once: None
) -> dict[tuple[str, bool], ExportCard]:
    folder = tmp_path_factory.mktemp("quantized")
    return {
        (kind, sparse): to_tflite(
            model,
            folder / f"{kind}_{sparse}.tflite",
            sparse,
            prompt_length=16,
            cache_length=48,
            quantize=kind,
        )
        for kind, sparse in QUANTIZED
    }


@pytest.mark.parametrize(("kind", "sparse"), QUANTIZED)
def test_a_quantized_file_is_near_the_keras_model(
    model: GPT, quantized: dict[tuple[str, bool], ExportCard], kind: str, sparse: bool
) -> None:
    card = quantized[kind, sparse]
    token_ids = np.random.default_rng(3).integers(512, size=16).tolist()
    received, _ = TFLiteModel(card.path).prefill(token_ids)
    expected = model(np.array([token_ids])).numpy()[0, -1:]
    allowed = QUANTIZED[kind, sparse]
    error = np.abs(received - expected).max() / np.abs(expected).max()
    assert 0 < error < allowed
    assert card.relative_error is not None and 0 < card.relative_error < allowed
    assert card.format == ("tflite_sparse_" if sparse else "tflite_") + kind


def test_every_pair_of_encodings_gets_smaller(
    files: Files, quantized: dict[tuple[str, bool], ExportCard]
) -> None:
    sizes = [
        *(files[name].size_bytes for name in ("dense", "sparse")),
        *(card.size_bytes for card in quantized.values()),
    ]
    # A kernel's entry takes 4, 2 or 1 bytes; sparse ones a quarter of 5, 3 or 2.
    saved = [4 - 5 / 4, 2 - 3 / 4, 1 - 2 / 4]
    for dense, sparse, bytes_saved in zip(sizes[::2], sizes[1::2], saved, strict=True):
        # What DENSIFY and DEQUANTIZE take stays the same in models of any width.
        assert dense - sparse == pytest.approx(98304 * bytes_saved, abs=14_000)
    assert sizes[0] > sizes[2] > sizes[4]


@pytest.mark.parametrize("sparse", [False, True])
def test_int8_kernels_stay_int8_or_are_dequantized_where_they_are_sparse(
    quantized: dict[tuple[str, bool], ExportCard], sparse: bool
) -> None:
    file = unpacked(quantized["int8", sparse])
    for subgraph in file.subgraphs:
        types = Counter(
            subgraph.tensors[operator.inputs[1]].type
            for operator in subgraph.operators
            if OPERATORS[file.operatorCodes[operator.opcodeIndex].builtinCode]
            == "FULLY_CONNECTED"
        )
        int8, float32 = schema.TensorType.INT8, schema.TensorType.FLOAT32
        assert types == ({float32: 12, int8: 1} if sparse else {int8: 13})


def delegated(file: Any) -> list[list[str]]:
    """What each piece of the first subgraph computes that the fast path takes."""
    builder = flatbuffers.Builder()
    builder.Finish(file.Pack(builder), b"TFL3")
    interpreter = Interpreter(model_content=bytes(builder.Output()))
    before = interpreter._get_ops_details()
    made_by = {int(out): op["op_name"] for op in before for out in op["outputs"]}
    interpreter.allocate_tensors()
    return [
        [made_by[int(out)] for out in op["outputs"]]
        for op in interpreter._get_ops_details()
        if op["op_name"] == "DELEGATE"
    ]


def test_the_runtimes_fast_path_takes_each_signature_in_one_piece(
    files: Files, quantized: dict[tuple[str, bool], ExportCard]
) -> None:
    for card in (*files.values(), *quantized.values()):
        file = unpacked(card)
        # The runtime's details are of the first subgraph: each signature in turn.
        for _ in range(2):
            file.subgraphs.reverse()
            for signature in file.signatureDefs:
                signature.subgraphIndex = 1 - signature.subgraphIndex
            *unpacking, computing = delegated(file)
            assert not {"DENSIFY", "DEQUANTIZE"} & set(computing), card.path
            # What stands before it unpacks constants, which is done once.
            assert len(unpacking) <= 1
            assert set(sum(unpacking, [])) <= {"DENSIFY", "DEQUANTIZE"}


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_profile_names_what_the_runtime_computes(files: Files, kind: str) -> None:
    table = profile(files[kind].path, "decode", runs=2)
    lines = [line for line in table.splitlines() if "Fully Connected (NC, F32)" in line]
    # Thirteen products: dense kernels, also where the file is sparse.
    assert lines[0].split("GEMM")[1].split()[0] == "13"
    with pytest.raises(ProfileError, match="one of .*prefill.* Received: train"):
        profile(files[kind].path, "train")
    with pytest.raises(ProfileError, match="There is no file"):
        profile("none.tflite")


def test_a_damaged_file_is_detected_by_its_card(files: Files, tmp_path: Path) -> None:
    damaged = tmp_path / "m.tflite"
    content = bytearray(Path(files["sparse"].path).read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    TFLiteModel(damaged)  # nobody can know
    card = Path(f"{files['sparse'].path}.card.json").read_text()
    Path(f"{damaged}.card.json").write_text(card)
    with pytest.raises(
        RunError, match=r"damaged: its checksum .* 'm.tflite.card.json'"
    ):
        TFLiteModel(damaged)
    Path(f"{damaged}.card.json").write_text("{}")
    with pytest.raises(
        RunError, match="has no checksum of 'm.tflite': export it again"
    ):
        TFLiteModel(damaged)


def test_int4_is_refused_with_the_reason(model: GPT, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none, fp16, int8: of int4, .* quantize=int4"):
        to_tflite(model, tmp_path / "m.tflite", quantize="int4")


def test_a_wrong_file_is_not_delivered(
    model: GPT, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_a_weight(flatbuffer: bytes) -> tuple[bytes, Any]:
        output = effective_kernels(model)[0]["output"].numpy() + 0.0
        kernel = output.T.tobytes()
        assert kernel in flatbuffer
        return flatbuffer.replace(kernel, b"\0" * len(kernel)), None

    monkeypatch.setattr(conversion, "sparse_encode", lose_a_weight)
    with pytest.raises(ExportError, match="logits differ from the Keras model's by"):
        to_tflite(model, tmp_path / "m.tflite", True, 16, 48)  # as `files`
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
    with pytest.raises(InputError, match="or a preset .* Received: 'gpt', which is"):
        to_tflite("gpt", tmp_path / "m.tflite")


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
    told = json.loads(result)
    assert told["token_ids"] == [1, 2, 3, 4, 5] and told["new_token_ids"] == expected
    for name in ("load_s", "first_use_s", "first_token_s", "peak_memory_bytes"):
        assert told[name] > 0
    assert told["token_s"] >= 0
    assert loaded == ""


def test_the_runner_continues_text_with_a_tokenizer_of_its_own(
    model: GPT, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from spdf_keras.export.runners.run_tflite import main

    tokenizer = Tokenizer.train(["low lower lowest " * 3], 300)
    tokenizer.save(tmp_path)
    path, folder = files["dense"].path, ["--tokenizer", str(tmp_path)]
    assert main([path, "--prompt", "lower?", *folder, "--max-new-tokens", "5"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["token_ids"] == tokenizer.encode("lower?")
    ends = [tokenizer.end_token_id]
    new = model.generate([told["token_ids"]], 5, end_token_ids=ends)[0]
    assert told["text"] == tokenizer.decode([i for i in new if i < 300])
    assert main([path, "--prompt", "low"]) == 2
    assert "needs `--tokenizer`" in capsys.readouterr().err
    assert main([path, "--prompt", "low", "--tokenizer", str(tmp_path / "no")]) == 2
    assert "Cannot read the tokenizer" in capsys.readouterr().err
    assert main([path, "--prompt", "low\udcff", *folder]) == 2
    assert capsys.readouterr().err == "`--prompt` must be text in UTF-8.\n"
    alphabet = [token for token in tokenizer.vocabulary if token not in "Zz"]
    vocabulary = {token: number for number, token in enumerate(alphabet)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert main([path, "--prompt", "low", *folder]) == 2
    error = capsys.readouterr().err
    assert "it has none for 0x5A, 0x7A." in error and error.count("\n") == 1


def test_the_runner_ends_with_one_sentence_and_status_2(files: Files) -> None:
    done = run(files["dense"].path, "--token-ids", "1,512")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last == "Token ids must be in [0, 512). Received: 1 to 512."


def test_what_cannot_be_run_is_told_in_one_sentence(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from spdf_keras.export.runners.run_tflite import main

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
    assert runner.prefill([1] * 16)[0].shape == (1, 512)
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
