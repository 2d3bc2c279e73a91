"""Files and calls that the stand-alone runners must refuse in one sentence."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import spdf_keras.export
from spdf_keras.cli import main as spdf_keras_main
from spdf_keras.export import ExportCard
from spdf_keras.export.runners.profile_tflite import ProfileError, profile
from spdf_keras.export.runners.profile_tflite import main as profile_main
from spdf_keras.export.runners.run_tflite import RunError, TFLiteModel
from spdf_keras.export.runners.run_tflite import main as run_main

Files = dict[str, ExportCard]
Details = dict[str, Any]

RUNNERS = Path(spdf_keras.export.__path__[0]) / "runners"


def damaged_contents(good: bytes) -> dict[str, bytes]:
    """Contents that are no file of the runtime; it must not read past their ends."""
    cuts = {f"cut to {size}": good[:size] for size in (1, 7, 64, 5000)}
    share = {f"cut to {n}/8": good[: n * len(good) // 8] for n in range(1, 8)}
    # The first number says where the tables begin.
    root = {"other root": (2**31 - 1).to_bytes(4, "little") + good[4:]}
    return {"empty": b"", "text": b"no model" * 8, **cuts, **share, **root}


def test_damaged_files_end_every_program_in_one_sentence(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.tflite"
    for name, content in damaged_contents(
        Path(files["dense"].path).read_bytes()
    ).items():
        path.write_bytes(content)
        with pytest.raises(RunError, match="Cannot load .*m.tflite'"):
            TFLiteModel(path)
        with pytest.raises(ProfileError, match="Cannot load .*m.tflite'"):
            profile(path, runs=1)
        for main, options in ((run_main, ["--token-ids", "1"]), (profile_main, [])):
            assert main([str(path), *options]) == 2, name
            assert capsys.readouterr().err.count("\n") == 1


def test_flipped_bits_end_a_run_in_one_sentence_or_not_at_all(
    files: Files, tmp_path: Path
) -> None:
    path, random = tmp_path / "m.tflite", np.random.default_rng(0)
    for name in ("dense", "sparse"):
        good = np.fromfile(files[name].path, np.uint8)
        refused = 0
        for _ in range(20):
            content = good.copy()
            # The tables lie at the beginning of a converted file, and at the end.
            places = random.integers(4000, size=4)
            content[np.where(random.integers(2, size=4), places, -1 - places)] ^= 4
            path.write_bytes(content.tobytes())
            try:
                TFLiteModel(path, 1).generate([1, 2], 3)
            except RunError as error:
                refused += 1
                assert "\n" not in str(error)
        assert refused


@pytest.mark.parametrize("runner", ["run_tflite", "profile_tflite"])
def test_a_crash_of_the_runtime_ends_in_one_sentence(files: Files, runner: str) -> None:
    arguments = ["--token-ids", "1"] if runner == "run_tflite" else []
    program = (
        "import os, runpy, sys, ai_edge_litert.interpreter as litert\n"
        "litert.Interpreter = lambda **_: os.kill(os.getpid(), 11)\n"
        f"sys.argv = {['r', files['dense'].path, *arguments]}\n"
        f"runpy.run_path({str(RUNNERS / runner)!r} + '.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("The runtime has crashed with SIGSEGV: the file is")
    assert done.stderr.count("\n") == 1


def test_tokens_and_positions_out_of_range_are_refused(files: Files) -> None:
    runner = TFLiteModel(files["dense"].path)
    _, caches = runner.prefill([1, 2, 3])
    logits, _ = runner.decode(511, 47, caches)  # the last of both
    assert logits.shape == (512,)
    for position in (-1, 48, 2**31):
        with pytest.raises(RunError, match=rf"in \[0, 48\).*Received: {position}\."):
            runner.decode(4, position, caches)
    for token_id in (-1, 512):
        with pytest.raises(RunError, match=rf"in \[0, 512\).*Received: {token_id} to"):
            runner.decode(token_id, 3, caches)
    with pytest.raises(RunError, match="Cannot run .*dense.tflite': .*inputs"):
        runner.decode(4, 3, {n: c for n, c in caches.items() if n != "k_1"})
    with pytest.raises(RunError, match="must not be negative. Received: -1"):
        runner.generate([1], -1)


def test_a_profile_needs_a_run(files: Files) -> None:
    with pytest.raises(ProfileError, match="must be positive. Received: 0"):
        profile(files["dense"].path, runs=0)


CACHE = (1, 1, 4, 2)


def foreign(
    path: Path,
    prefill: Callable[..., Any],
    decode: Callable[..., Any],
    inputs: dict[str, Details],
) -> Path:
    """Writes a file with the signatures of `to_tflite`, of other functions."""
    module = tf.Module()
    concrete = {
        name: tf.function(function, autograph=False).get_concrete_function(
            **{
                key: tf.TensorSpec(*spec, name=key)
                for key, spec in inputs[name].items()
            }
        )
        for name, function in (("prefill", prefill), ("decode", decode))
    }
    folder = path.with_suffix("")
    tf.saved_model.save(module, str(folder), signatures=concrete)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder), signature_keys=list(concrete)
    )
    path.write_bytes(converter.convert())
    return path


@pytest.mark.parametrize(
    ("decode_inputs", "results", "sentence"),
    [
        ({"x": ((1, 1),)}, {"logits": (1, 1, 8), "k_0": CACHE}, "of decode lack k_0"),
        (
            {"token_ids": ((1, 1), tf.int32), "k_0": (CACHE,)},
            {"logits": (1, 1, 8), "k_0": CACHE},
            "inputs of decode lack position",
        ),
        (
            {
                "token_ids": ((1, 1), tf.int32),
                "position": ((1,), tf.int32),
                "k_0": (CACHE,),
                "mask": ((1, 4),),
            },
            {"logits": (1, 1, 8), "k_0": CACHE},
            "inputs of decode have mask too",
        ),
        ({"x": ((1, 1),)}, {"y": (1, 1, 8)}, "outputs of prefill lack k_0"),
        (
            {
                "token_ids": ((1, 1), tf.int32),
                "position": ((1,), tf.int32),
                "k_0": (CACHE,),
            },
            {"logits": (1, 8), "k_0": CACHE},
            r"logits of the outputs of prefill has the shape \[1, 8\], not one of 3",
        ),
    ],
)
def test_foreign_files_with_our_signatures_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    decode_inputs: Details,
    results: dict[str, tuple[int, ...]],
    sentence: str,
) -> None:
    def function(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        total = tf.add_n(
            [tf.reduce_sum(tf.cast(x, tf.float32)) for x in inputs.values()]
        )
        return {name: tf.zeros(shape) + total for name, shape in results.items()}

    inputs = {"prefill": {"token_ids": ((1, 4), tf.int32)}, "decode": decode_inputs}
    path = foreign(tmp_path / "m.tflite", function, function, inputs)
    with pytest.raises(RunError, match=f"`to_tflite` has not written .*{sentence}"):
        TFLiteModel(path)
    assert run_main([str(path), "--token-ids", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_foreign_file_gets_its_sentence_in_a_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def function(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x + 1.0}

    inputs = {"prefill": {"x": ((1, 4),)}, "decode": {"x": ((1, 4),)}}
    path = foreign(tmp_path / "m.tflite", function, function, inputs)
    assert spdf_keras_main(["benchmark", str(path), "--rounds", "1", "--json"]) == 1
    printed = capsys.readouterr()
    (line,) = [x for x in printed.err.splitlines() if not x.startswith("round ")]
    assert "the inputs of prefill lack token_ids" in line
    (told,) = json.loads(printed.out.splitlines()[-1])
    assert told["path"] == str(path) and "lack" in told["error"]
