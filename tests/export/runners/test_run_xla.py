"""The runner of XLA artefacts with inputs and files that it must refuse."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spdf_keras.export
from spdf_keras import GPT
from spdf_keras.export import to_xla
from spdf_keras.export.runners.run_xla import RunError, XLAModel, main

RUNNERS = Path(spdf_keras.export.__path__[0]) / "runners"

ALL = ("forward", "prefill", "decode", "train_step")


@pytest.fixture(scope="module")
def artefact(small_model: GPT, tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("xla") / "x"
    sizes: dict[str, Any] = {
        "sequence_length": 8,
        "prompt_length": 4,
        "cache_length": 16,
    }
    to_xla(small_model, folder, ALL, sparse=True, check=False, **sizes)
    return folder


@pytest.fixture(scope="module")
def model(artefact: Path) -> XLAModel:
    return XLAModel(artefact)


IDS = np.zeros((1, 8), np.int32)
PROMPT = {"token_ids": np.zeros((1, 4), np.int32), "lengths": np.array([1])}
TRAINING = {
    "token_ids": IDS,
    "labels": IDS,
    "sample_weight": np.ones((1, 8), np.float32),
}


@pytest.mark.parametrize(
    ("program", "inputs", "told"),
    [
        ("forward", {"token_ids": IDS - 2}, r"`token_ids` .* in \[0, 512\).*-2 to -2"),
        ("forward", {"token_ids": IDS + 512}, "Received: 512 to 512"),
        ("forward", {"token_ids": IDS + np.int64(2**40)}, "Received: 1099511627776 to"),
        ("forward", {"token_ids": IDS + 0.5}, "must be integers. Received: float64"),
        ("forward", {"token_ids": IDS == 0}, "must be integers. Received: bool"),
        ("forward", {"token_ids": "text"}, "must have the shape .* Received: shape"),
        ("forward", {"token_ids": [[1, 2], [3]]}, "must be an array"),
        ("forward", {"tokens": IDS}, "inputs of forward must be token_ids. .* tokens"),
        ("prefill", {**PROMPT, "lengths": [0]}, r"`lengths` .* in \[1, 5\)"),
        ("prefill", {**PROMPT, "lengths": [5]}, "Received: 5 to 5"),
        ("train_step", {**TRAINING, "labels": IDS - 1}, "`labels` .* Received: -1"),
        (
            "train_step",
            {**TRAINING, "sample_weight": np.full((1, 8), np.nan)},
            "`sample_weight` .* must be finite numbers",
        ),
        ("train_step", {**TRAINING, "labels": IDS[:, 1:]}, r"shape \[1, 8\]. .*1, 7"),
    ],
)
def test_an_input_out_of_range_is_refused(
    model: XLAModel, program: str, inputs: dict[str, Any], told: str
) -> None:
    with pytest.raises(RunError, match=told):
        model.run(program, **inputs)


def test_a_token_beyond_the_cache_and_a_cache_of_another_type_are_refused(
    model: XLAModel,
) -> None:
    caches = model.run("prefill", **PROMPT)
    caches.pop("logits")
    token: dict[str, Any] = {"token_ids": np.zeros((1, 1), np.int32)}
    for position in (-1, 16):
        with pytest.raises(
            RunError, match=r"`position` of decode must be in \[0, 16\)"
        ):
            model.run("decode", **token, position=[position], **caches)
    wrong = {**caches, "k_0": np.zeros((1, 4, 16, 16), np.float64)}
    with pytest.raises(RunError, match="`k_0` .* must be float32. Received: float64"):
        model.run("decode", **token, position=[1], **wrong)
    model.run("decode", **token, position=[15], **caches)


def test_a_number_of_tokens_or_rounds_out_of_range_is_refused(model: XLAModel) -> None:
    with pytest.raises(RunError, match="`max_new_tokens` must not be negative"):
        model.generate([1], -1)
    with pytest.raises(RunError, match="`rounds` must be positive. Received: 0"):
        model.benchmark(0)


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda f: (f / "artefact.json").unlink(),
            "is no XLA artefact: .*No such file",
        ),
        (lambda f: cut(f / "artefact.json", 500), "is no XLA artefact"),
        (
            lambda f: (f / "artefact.json").write_text("[1]"),
            "artefact.json' is no dict",
        ),
        (lambda f: (f / "artefact.json").write_text("{}"), "it has no 'format'"),
        (
            lambda f: (f / "artefact.json").write_text('{"format": "other 2"}'),
            "it is of the format 'other 2'",
        ),
        (
            lambda f: (f / "artefact.json").write_text('{"format": "spdf-xla 1"}'),
            "it has no 'model'",
        ),
        (
            lambda f: (f / "weights.safetensors").unlink(),
            "it has no weights.safetensors",
        ),
        (
            lambda f: cut(f / "weights.safetensors", 0),
            "weights.safetensors is cut short",
        ),
        (lambda f: cut(f / "weights.safetensors", 100), "safetensors is cut short"),
        (lambda f: cut(f / "weights.safetensors", 50_000), "safetensors is cut short"),
        (lambda f: (f / "check.safetensors").unlink(), "it has no check.safetensors"),
        (lambda f: cut(f / "check.safetensors", 4), "check.safetensors is cut short"),
        (lambda f: (f / "decode.stablehlo").unlink(), "it has no decode.stablehlo"),
        (lambda f: cut(f / "forward.stablehlo", 9), "'forward' has the wrong checksum"),
        (lambda f: f.rename(f.with_name("gone")), "is no XLA artefact: .*No such file"),
    ],
)
def test_a_folder_that_lacks_something_is_told_in_one_sentence(
    artefact: Path, tmp_path: Path, capsys: Any, damage: Any, told: str
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(artefact, folder)
    damage(folder)
    with pytest.raises(RunError, match=told):
        XLAModel(folder).check()
    assert main([str(folder), "--check"]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1


def test_any_key_of_artefact_json_may_be_missing_or_of_another_type(
    artefact: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(artefact, folder)
    about = json.loads((folder / "artefact.json").read_text())
    needed = set(about) - {
        "written_by",
        "sparsity",
        "skip_zeros",
        "sparse",
        "precision",
    }
    needed -= {"batch_size", "sequence_length", "prompt_length", "cache_length"}
    wrongs: tuple[Any, ...] = (None, "text", [], True)
    for key in needed:
        for wrong in wrongs:
            changed = {**about, key: wrong}
            if wrong is None:
                del changed[key]
            if type(wrong) is type(about[key]):
                continue
            (folder / "artefact.json").write_text(json.dumps(changed))
            with pytest.raises(RunError, match="is no XLA artefact: it"):
                XLAModel(folder)
    program = about["programs"]["forward"]
    program["arguments"][0]["role"] = "unheard"
    (folder / "artefact.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="program forward has the role 'unheard'"):
        XLAModel(folder)


def test_three_files_copied_together_run_alone(artefact: Path, tmp_path: Path) -> None:
    for name in ("run_xla.py", "xla_artefact.py", "xla_library.py"):
        shutil.copy(RUNNERS / name, tmp_path)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run_xla.py"), str(artefact)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "name at least one of --check" in done.stderr
