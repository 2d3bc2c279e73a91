"""The delegate's results against the runtime's own, and against NumPy in float64."""

import math
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, load_delegate
from numpy.typing import NDArray

from spdf_keras.export import ExportCard, library_path, to_tflite
from spdf_keras.export.runners.run_tflite import RunError, TFLiteModel
from spdf_keras.export.runtimes import LITERT_PAYS_FROM
from spdf_keras.export.tflite.sparse_encoding import sparse_encode
from spdf_keras.model.gpt import GPT
from spdf_keras.native import build
from spdf_keras.native.build import NotBuiltError

# 1e-5 is float32's sums in another order. Plain int8 rounds inputs in another way than
# the delegate: both are off by up to 1 % of the largest result here.
TOLERANCES = {"none": 1e-5, "fp16": 1e-3, "int8": 2e-2}
TOKENS = (1, 5, 70)

Results = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def library() -> str:
    try:
        return str(library_path("litert"))
    except NotBuiltError as error:
        pytest.skip(str(error))


class Net:
    """Two layers with 75 % zeros, one of them with biases and RELU, and one dense."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)

        def weight(rows: int, columns: int, zeros: float) -> NDArray[np.float32]:
            values = random.normal(size=(rows, columns)) / math.sqrt(rows)
            kept = random.random((rows, columns)) >= zeros
            kept[:, 3] = False  # an output without weights
            return (values * kept + 0.0).astype(np.float32)

        self.weights = (
            weight(200, 330, 0.75),
            weight(330, 200, 0.75),
            weight(200, 70, 0),
        )
        self.biases = [random.normal(size=n).astype(np.float32) for n in (330, 200)]
        self._module = tf.Module()
        self._module.v = [tf.Variable(v) for v in (*self.weights, *self.biases)]

    def call(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        first, second, third, bias, other = self._module.v
        y = tf.matmul(tf.nn.relu(tf.matmul(x, first) + bias), second) + other
        return {"y": y, "z": tf.matmul(tf.nn.gelu(y), third)}

    def expected(self, x: NDArray[Any]) -> Results:
        first, second, third = (w.astype(np.float64) for w in self.weights)
        y = np.maximum(x @ first + self.biases[0], 0) @ second + self.biases[1]
        gelu = 0.5 * y * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        return {"y": y, "z": gelu @ third}

    def convert(self, quantize: str, folder: Path) -> bytes:
        functions = {
            f"t{n}": tf.function(self.call).get_concrete_function(
                tf.TensorSpec((n, 200), name="x")
            )
            for n in TOKENS
        }
        tf.saved_model.save(self._module, str(folder), signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(folder), signature_keys=list(functions)
        )
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        return bytes(converter.convert())


@pytest.fixture(scope="module")
def net() -> Net:
    return Net()


@pytest.fixture(scope="module", params=["none", "fp16", "int8"])
def quantized(
    request: pytest.FixtureRequest, net: Net, tmp_path_factory: Any
) -> tuple[str, bytes]:
    folder = tmp_path_factory.mktemp("net")
    return request.param, net.convert(request.param, folder)


def count_delegates(interpreter: Any) -> int:
    names = [operator["op_name"] for operator in interpreter._get_ops_details()]
    return names.count("DELEGATE")


@pytest.mark.parametrize("code", ["dense", "CSR"])
@pytest.mark.parametrize("threads", [1, 2])
def test_layers_give_the_results_of_the_runtime_and_of_numpy(
    library: str,
    net: Net,
    quantized: tuple[str, bytes],
    tmp_path: Path,
    code: str,
    threads: int,
) -> None:
    quantize, content = quantized
    if code == "CSR":
        content, report = sparse_encode(content)
        assert report.encoded == 2
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    mapped = {"model_path": str(path)}
    for model in (mapped, {"model_content": content}):
        # Both runtimes exist at once, and each file is used by both.
        plain, sparse = (
            Interpreter(**model, num_threads=threads, experimental_delegates=delegates)
            for delegates in (None, [load_delegate(library)])
        )
        for tokens in TOKENS:
            x = np.random.default_rng(tokens).normal(size=(tokens, 200))
            x = x.astype(np.float32)
            right = net.expected(x)
            given = plain.get_signature_runner(f"t{tokens}")(x=x)
            received = sparse.get_signature_runner(f"t{tokens}")(x=x)
            for key, values in right.items():
                scale = np.abs(values).max() * TOLERANCES[quantize]
                np.testing.assert_allclose(received[key], values, rtol=0, atol=scale)
                np.testing.assert_allclose(
                    received[key], given[key], rtol=0, atol=scale
                )
        assert count_delegates(sparse) > count_delegates(plain)


def test_signatures_share_their_packed_weights(
    library: str, quantized: tuple[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    content, _ = sparse_encode(quantized[1])
    interpreter = Interpreter(
        model_content=content,
        experimental_delegates=[load_delegate(library, {"verbose": 1})],
    )
    for tokens in TOKENS:
        interpreter.get_signature_runner(f"t{tokens}")
    lines = re.findall(
        r"spdf: (\d+) layers and \d+ caches of \d+ operators are taken; (\d+) weights",
        capfd.readouterr().err,
    )
    assert lines and set(lines) == {("2", "2")}


def test_inputs_can_be_resized(library: str, net: Net, tmp_path: Path) -> None:
    function = tf.function(net.call).get_concrete_function(
        tf.TensorSpec((1, 200), name="x")
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], net._module)
    content, _ = sparse_encode(bytes(converter.convert()))
    interpreter = Interpreter(
        model_content=content, experimental_delegates=[load_delegate(library)]
    )
    (entry,) = interpreter.get_input_details()
    for tokens in (1, 7, 33, 2):
        interpreter.resize_tensor_input(entry["index"], (tokens, 200))
        interpreter.allocate_tensors()
        x = np.random.default_rng(tokens).normal(size=(tokens, 200)).astype(np.float32)
        interpreter.set_tensor(entry["index"], x)
        interpreter.invoke()
        right = net.expected(x)
        for output in interpreter.get_output_details():
            received = interpreter.get_tensor(output["index"])
            expected = next(v for v in right.values() if v.shape == received.shape)
            np.testing.assert_allclose(
                received, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
            )


def test_one_delegate_serves_one_model_after_the_other(library: str, net: Net) -> None:
    # The second model may lie where the first one lay, so addresses tell nothing.
    delegate = load_delegate(library)
    x = np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32)
    for seed in range(6):
        random = np.random.default_rng(seed)
        weight = random.normal(size=(200, 90)) * (random.random((200, 90)) > 0.75)
        module = tf.Module()
        module.v = tf.Variable((weight + 0.0).astype(np.float32))
        function = tf.function(lambda x, own=module: tf.matmul(x, own.v))
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function(tf.TensorSpec((3, 200)))], module
        )
        content = bytes(converter.convert())
        content = sparse_encode(content)[0] if seed % 2 else content
        interpreter = Interpreter(
            model_content=content, experimental_delegates=[delegate]
        )
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        received = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        np.testing.assert_allclose(received, x @ weight, rtol=0, atol=1e-4)
        del interpreter


def test_an_interpreter_that_never_ran_leaves_nothing_behind(
    library: str, net: Net, tmp_path: Path
) -> None:
    content, _ = sparse_encode(net.convert("none", tmp_path))
    delegate = load_delegate(library)
    x = np.random.default_rng(0).normal(size=(5, 200)).astype(np.float32)
    for _ in range(3):
        unused = Interpreter(model_content=content, experimental_delegates=[delegate])
        del unused
        used = Interpreter(model_content=content, experimental_delegates=[delegate])
        received = used.get_signature_runner("t5")(x=x)["y"]
        np.testing.assert_allclose(received, net.expected(x)["y"], rtol=0, atol=1e-4)


def test_two_interpreters_run_at_once(library: str, net: Net, tmp_path: Path) -> None:
    content, _ = sparse_encode(net.convert("none", tmp_path))
    delegate = load_delegate(library, {"num_threads": 2})
    x = np.random.default_rng(0).normal(size=(70, 200)).astype(np.float32)
    right = net.expected(x)["y"]
    errors = []

    def run(shared: Any) -> None:
        interpreter = Interpreter(
            model_content=content, experimental_delegates=[shared]
        )
        run = interpreter.get_signature_runner("t70")
        for _ in range(50):
            errors.append(np.abs(run(x=x)["y"] - right).max())

    # Two of the three share a delegate.
    delegates = delegate, delegate, load_delegate(library, {"num_threads": 2})
    threads = [threading.Thread(target=run, args=[d]) for d in delegates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 150 and max(errors) < 1e-4


def logits_of(path: str, delegates: Any, steps: int = 32) -> tuple[list[int], Any]:
    """Continues a prompt greedily; returns the tokens and the last logits of each."""
    interpreter = Interpreter(path, experimental_delegates=delegates)
    prefill, decode = (
        interpreter.get_signature_runner(name) for name in ("prefill", "decode")
    )
    prompt = [3, 1, 4, 1, 5]
    token_ids = np.zeros(prefill.get_input_details()["token_ids"]["shape"], np.int32)
    token_ids[0, : len(prompt)] = prompt
    caches = prefill(token_ids=token_ids, lengths=np.array([len(prompt)], np.int32))
    logits = [caches.pop("logits").reshape(-1)]
    tokens: list[int] = []
    for step in range(steps):
        tokens.append(int(logits[-1].argmax()))
        position = np.array([len(prompt) + step], np.int32)
        caches = decode(
            token_ids=np.array([[tokens[-1]]], np.int32), position=position, **caches
        )
        logits.append(caches.pop("logits").reshape(-1))
    return tokens, np.array(logits)


def test_a_model_with_biases_generates_the_same_tokens(
    library: str, files: dict[str, ExportCard]
) -> None:
    for card in files.values():
        (tokens, logits), (received, other) = (
            logits_of(card.path, delegates)
            for delegates in (None, [load_delegate(library)])
        )
        assert received == tokens
        assert np.abs(other - logits).max() <= 1e-5 * np.abs(logits).max()


def test_the_runner_says_whether_zeros_are_skipped(
    library: str,
    files: dict[str, ExportCard],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = files["sparse"].path
    plain, skipping = TFLiteModel(path), TFLiteModel(path, library=library)
    assert not plain.skips_zeros and "names no library" in plain.products
    assert skipping.skips_zeros and "taken 24 layers" in skipping.products
    assert plain.generate([1, 2, 3], 32) == skipping.generate([1, 2, 3], 32)
    monkeypatch.setenv("SPDF_LITERT_LIBRARY", library)
    assert TFLiteModel(path).skips_zeros
    assert not TFLiteModel(path, library="").skips_zeros
    foreign = tmp_path / "libother.so"
    foreign.write_bytes(b"no library")
    for wrong in (foreign, tmp_path / "missing.so"):
        with pytest.raises(RunError, match=f"Cannot load the library '{wrong}'"):
            TFLiteModel(path, library=wrong)


def test_the_card_names_the_library_and_the_oldest_runtime(
    files: dict[str, ExportCard],
) -> None:
    for card in files.values():
        delegate, *others = card.runtimes
        assert (delegate.library, delegate.skips_zeros) == ("litert", True)
        assert not any(other.skips_zeros or other.library for other in others)
        assert delegate.minimum_version == "ai-edge-litert 2.3"
        assert {other.minimum_version for other in others} == {"TensorFlow Lite 2.9"}


def test_the_thresholds_of_cards_are_those_of_the_delegate() -> None:
    source = (build._HERE / "litert" / "weights.cpp").read_text("utf-8")
    (floats, integers) = re.findall(r"kPays\w+ = ([\d.]+)", source)
    assert LITERT_PAYS_FROM == {
        "none": float(floats),
        "fp16": float(floats),
        "int8": float(integers),
    }


@pytest.mark.parametrize("quantize", ["fp16", "int8"])
def test_quantized_models_stay_within_the_error_of_their_card(
    library: str, model: GPT, tmp_path: Path, quantize: str
) -> None:
    card = to_tflite(
        model,
        tmp_path / "gpt.tflite",
        quantize=quantize,
        prompt_length=16,
        cache_length=48,
    )
    (_, logits), (_, other) = (
        logits_of(card.path, delegates, steps=0)
        for delegates in (None, [load_delegate(library)])
    )
    assert card.relative_error is not None
    allowed = max(2 * card.relative_error, 1e-3) * np.abs(logits).max()
    assert np.abs(other - logits).max() <= allowed


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"min_sparsities": 1}, "There is no option 'min_sparsities'"),
        ({"min_sparsity": 1.5}, "'min_sparsity' .* a number from 0.* Received: 1.5"),
        ({"num_threads": "two"}, "'num_threads' .* an integer from 0 to 1024"),
        ({"format": "int4"}, "'format' .* auto, float32, float16 or int8"),
        ({"verbose": 2}, "'verbose' .* must be 0 or 1. Received: 2"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(
    library: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        load_delegate(library, options)


def test_a_layer_below_the_threshold_is_left_to_the_runtime(
    library: str, net: Net, tmp_path: Path
) -> None:
    content = net.convert("none", tmp_path)
    plain = Interpreter(model_content=content)
    sparse = Interpreter(
        model_content=content,
        experimental_delegates=[load_delegate(library, {"min_sparsity": 0.9})],
    )
    for interpreter in (plain, sparse):
        interpreter.allocate_tensors()
    assert count_delegates(sparse) == count_delegates(plain)


IN_ANOTHER_PACKAGE = """
import shutil, sys
from pathlib import Path
import ai_edge_litert
folder = Path(sys.argv[1])
source = Path(next(iter(ai_edge_litert.__path__)))
shutil.copytree(source, folder / "ai_edge_litert", symlinks=True)
(folder / f"ai_edge_litert-{sys.argv[4]}.dist-info").mkdir()
for name in [n for n in sys.modules if n.startswith("ai_edge_litert")]:
    del sys.modules[name]
sys.path.insert(0, str(folder))
from ai_edge_litert.interpreter import Interpreter, load_delegate
options = {"any_version": 1} if len(sys.argv) > 5 else None
try:
    delegate = load_delegate(sys.argv[2], options)
    Interpreter(sys.argv[3], experimental_delegates=[delegate])
except (ValueError, RuntimeError) as error:
    print("refused:", error)
else:
    print("taken")
"""


@pytest.mark.parametrize(
    ("version", "told"),
    [("2.3.0", "taken"), ("2.4.0", "refused"), ("1.4.0", "refused")],
)
def test_a_runtime_of_an_untested_version_is_refused(
    library: str,
    files: dict[str, ExportCard],
    tmp_path: Path,
    version: str,
    told: str,
) -> None:
    command = [sys.executable, "-c", IN_ANOTHER_PACKAGE, str(tmp_path), library]
    command += [files["dense"].path, version]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(told), done.stdout + done.stderr
    if told == "refused":
        assert f"Received: {version[:3]}. Install a tested version" in done.stdout
        command[3] = str(tmp_path / "again")
        done = subprocess.run(
            [*command, "any"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "taken\n"


@pytest.mark.slow
def test_four_thousand_decodes_take_no_more_memory(
    library: str, files: dict[str, ExportCard]
) -> None:
    interpreter = Interpreter(
        files["sparse"].path, experimental_delegates=[load_delegate(library)]
    )
    decode = interpreter.get_signature_runner("decode")
    inputs = {
        name: np.zeros(about["shape"], about["dtype"])
        for name, about in decode.get_input_details().items()
    }
    peaks = []
    for _ in range(5):
        for _ in range(1000):
            decode(**inputs)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[-1] - peaks[0] < 2048  # KiB
