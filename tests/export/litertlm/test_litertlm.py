import importlib.util
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from ai_edge_litert.interpreter import Interpreter

from spdf_keras import GPT
from spdf_keras.cli import main
from spdf_keras.config import DecodeConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation.texts import generate_texts
from spdf_keras.export import ExportCard, ExportError, to_litertlm
from spdf_keras.export.graphs import FoldedKernels
from spdf_keras.export.litertlm import bundle, check, exporter
from spdf_keras.export.litertlm.check import Signatures, check_logits
from spdf_keras.export.litertlm.signatures import prefill_lengths, trace_signatures
from spdf_keras.export.tflite.conversion import convert


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


needs_builder = pytest.mark.skipif(
    not installed("litert_lm_builder"), reason="litert-lm-builder is not installed"
)
needs_runtime = pytest.mark.skipif(
    not installed("litert_lm_builder") or not installed("litert_lm"),
    reason="litert-lm-api is not installed",
)

CACHE, LENGTHS = 40, [1, 8, 16]
TEXTS = ["low", "lower? lowest!", "low lower lowest " * 4, "café 🙂"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["low lower lowest " * 3, "a\n\nb\n\nc\n\nd"], 280)


@pytest.fixture(scope="module")
def flatbuffer(small_model: GPT, tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "m.tflite"
    kernels = FoldedKernels(small_model)
    functions = trace_signatures(small_model, kernels, LENGTHS, CACHE)
    path.write_bytes(convert(functions, "none", path))
    return path


@pytest.fixture(scope="module")
def card(small_model: GPT, tokenizer: Tokenizer, tmp_path_factory: Any) -> ExportCard:
    return to_litertlm(
        small_model,
        tmp_path_factory.mktemp("bundle") / "m.litertlm",
        sparse=True,
        prompt_length=16,
        cache_length=CACHE,
        tokenizer=tokenizer,
    )


@pytest.fixture(scope="module")
def parts(card: ExportCard, tmp_path_factory: Any) -> Path:
    """The sections of the bundle, as Google's own tool takes them apart."""
    from litert_lm_builder import unpack

    folder: Path = tmp_path_factory.mktemp("parts")
    unpack(card.path, str(folder))
    return folder


def test_prefills_reach_from_one_token_to_the_longest_piece() -> None:
    assert prefill_lengths(1) == [1]
    assert prefill_lengths(8) == [1, 8]
    assert prefill_lengths(100) == [1, 8, 64, 100]


def test_the_signatures_are_those_that_the_runtime_asks_for(flatbuffer: Path) -> None:
    interpreter = Interpreter(model_path=str(flatbuffer))
    caches = {f"kv_cache_{part}_0": (1, 4, CACHE, 16) for part in "kv"}
    expected: Any = {"decode": (1, {"logits": (1, 1, 512), **caches})}
    expected |= {f"prefill_{length}": (length, caches) for length in LENGTHS}
    assert set(interpreter.get_signature_list()) == set(expected)
    for name, (length, outputs) in expected.items():
        runner = interpreter.get_signature_runner(name)
        inputs = {"tokens": (1, length), "input_pos": (length,), **caches}
        for details, shapes in (
            (runner.get_input_details(), inputs),
            (runner.get_output_details(), outputs),
        ):
            assert shapes == {k: tuple(v["shape"]) for k, v in details.items()}


def test_pieces_of_any_size_give_the_logits_of_one_forward_pass(
    small_model: GPT, flatbuffer: Path
) -> None:
    token_ids = np.random.default_rng(2).integers(512, size=CACHE).tolist()
    expected = small_model(np.array([token_ids])).numpy()[0]
    signatures, start = Signatures(flatbuffer, LENGTHS), 0
    # Full pieces and padded ones.
    for tokens, length in ((16, 16), (3, 8), (8, 8), (5, 8), (1, 1)):
        signatures.prefill(token_ids[start : start + tokens], start, length)
        start += tokens
    received = [signatures.decode(token_ids[p], p) for p in range(start, CACHE)]
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(received, expected[start:], atol=atol)


def test_a_wrong_signature_is_found_before_delivery(
    small_model: GPT, flatbuffer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, scale = check_logits(flatbuffer, small_model, LENGTHS, "none")
    assert 0 < error < 1e-5 * scale
    prefill: Any = Signatures.prefill

    def off_by_one(self: Signatures, ids: list[int], start: int, length: int) -> None:
        prefill(self, ids, start + (length == 8), length)

    monkeypatch.setattr(Signatures, "prefill", off_by_one)
    with pytest.raises(ExportError, match="logits differ from the Keras model's by"):
        check_logits(flatbuffer, small_model, LENGTHS, "none")


def test_the_tokenizer_json_knows_the_separator(tokenizer: Tokenizer) -> None:
    theirs = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    for text in TEXTS:
        assert theirs.encode(text).ids == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    closed = theirs.encode("low<|endoftext|>").ids
    assert closed == [*tokenizer.encode("low"), tokenizer.end_token_id]
    # The tokenizer itself is as before.
    assert tokenizer.end_token_id not in tokenizer.encode("low<|endoftext|>")


@needs_builder
def test_the_bundle_holds_model_tokenizer_and_metadata(
    tokenizer: Tokenizer, card: ExportCard, parts: Path
) -> None:
    (model,) = parts.glob("*.tflite")
    names = Interpreter(model_path=str(model)).get_signature_list()
    assert set(names) == {"decode", *(f"prefill_{length}" for length in LENGTHS)}
    (packed,) = parts.glob("*HF_Tokenizer*")
    # Eight bytes hold the size of the text.
    text = zlib.decompress(packed.read_bytes()[8:]).decode()
    assert text == tokenizer.to_json()
    assert card.format == "litertlm_sparse" and card.relative_error is not None
    assert 0 < card.relative_error < 1e-5
    assert card.size_bytes == Path(card.path).stat().st_size
    assert card.bound_size_bytes < card.size_bytes < card.dense_size_bytes
    stored = json.loads(Path(f"{card.path}.card.json").read_text())
    assert stored["sha256"] == card.sha256
    assert sorted(path.name for path in Path(card.path).parent.iterdir()) == [
        "m.litertlm",
        "m.litertlm.card.json",
    ]


@needs_builder
@pytest.mark.parametrize("separator", [False, True])
def test_the_metadata_tell_where_an_answer_ends(
    tokenizer: Tokenizer, separator: bool
) -> None:
    from litert_lm_builder.runtime.proto import llm_metadata_pb2

    content = bundle.llm_metadata(tokenizer, CACHE, separator)
    metadata = llm_metadata_pb2.LlmMetadata.FromString(content)
    stops = [list(stop.token_ids.ids) for stop in metadata.stop_tokens]
    assert stops[0] == [tokenizer.end_token_id]
    texts = {tokenizer.decode(stop) for stop in stops[1:]}
    assert texts == ({"\n\n"} if separator else set())
    suffix = metadata.prompt_templates.user.suffix
    assert suffix == ("<|endoftext|>" if separator else "")
    assert metadata.max_num_tokens == CACHE
    assert metadata.llm_model_type.HasField("generic_model")
    assert metadata.sampler_params.k == 1


@needs_runtime
@pytest.mark.parametrize("separator", [False, True])
def test_litert_lm_gives_the_greedy_texts_of_the_keras_model(
    small_model: GPT, tokenizer: Tokenizer, tmp_path: Path, separator: bool
) -> None:
    path = tmp_path / "m.litertlm"
    card = to_litertlm(
        small_model,
        path,
        prompt_length=16,
        cache_length=CACHE,
        tokenizer=tokenizer,
        separator=separator,
    )
    assert card.notes[-1].startswith("LiteRT-LM ran the bundle: 2 of 2")
    settings = DecodeConfig(max_new_tokens=6)
    expected = generate_texts(
        small_model, tokenizer, TEXTS, settings, separator=separator
    )
    prompts = [option for text in TEXTS for option in ("--prompt", text)]
    runner = Path(bundle.__file__).parents[1] / "runners" / "run_litertlm.py"
    done = subprocess.run(
        [sys.executable, str(runner), str(path), "--max-new-tokens", "6", *prompts],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [text.strip() for text in json.loads(done.stdout)["texts"]] == expected
    # No cache of unpacked weights is left.
    assert {file.suffix for file in tmp_path.iterdir()} == {".litertlm", ".json"}
    path.write_bytes(b"no bundle" * 9)
    done = subprocess.run(
        [sys.executable, str(runner), str(path), "--prompt", "low"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "LiteRT-LM does not run" in done.stderr.splitlines()[-1]


@needs_builder
def test_a_bundle_that_litert_lm_does_not_run_is_not_delivered(
    small_model: GPT,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export() -> ExportCard:
        return to_litertlm(
            small_model,
            tmp_path / "m.litertlm",
            prompt_length=1,
            cache_length=8,
            tokenizer=tokenizer,
        )

    monkeypatch.setattr(exporter, "check_texts", lambda *_: (1, 2))
    with pytest.raises(ExportError, match="gives 1 of 2 texts that are not the Keras"):
        export()
    monkeypatch.undo()
    # A name without a module: as where the runtime is not installed.
    monkeypatch.setattr(check, "RUNTIME", "litert_lm_is_missing")
    assert not list(tmp_path.iterdir())
    assert export().notes[-1].endswith("litert-lm-api is not installed.")


def test_bad_input_gets_one_sentence(
    small_model: GPT,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bundle, "BUILDER", "litert_lm_builder_is_missing")
    path = tmp_path / "m.litertlm"
    with pytest.raises(InputError, match=r"pip install 'spdf_keras\[litertlm\]'"):
        to_litertlm(small_model, path, tokenizer=tokenizer)
    monkeypatch.setattr(bundle, "BUILDER", "json")
    for arguments, sentence in (
        ({"path": tmp_path / "m.bin"}, "must end in .litertlm"),
        ({"tokenizer": None}, "`tokenizer` must be given, or `model` be a run"),
        ({"cache_length": 3}, "`cache_length` must be at least 4"),
        ({"cache_length": 65}, r"`cache_length` must be in \[1, 64\]"),
        ({"quantize": "int4"}, "`quantize` must be one of none, fp16, int8"),
    ):
        given: Any = {"path": path, "tokenizer": tokenizer, **arguments}
        with pytest.raises(InputError, match=sentence):
            to_litertlm(small_model, **given)
    large = Tokenizer.train([" ".join(map(str, range(2000)))], 600)
    with pytest.raises(InputError, match="must fit the model's 512 tokens"):
        to_litertlm(small_model, path, tokenizer=large)
    command = ["export", "gpt_nano", "--format", "litertlm", "--out"]
    assert main([*command, str(path)]) == 2
    assert "needs a run, which has a tokenizer" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "m.bin")]) == 2
    assert "must end in .litertlm" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
