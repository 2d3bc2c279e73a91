"""What version 0.1.0 wrote is read, gone on with and exported as it was then."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from spdf_keras import load_model
from spdf_keras.config import load_config
from spdf_keras.data.shards.reader import Shards
from spdf_keras.export import to_xla
from spdf_keras.export.runners.xla_artefact import exported

FIXTURE = Path(__file__).with_name("fixtures") / "version_0_1_0"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run that stopped after step 5 of 8."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    return Path(shutil.copytree(FIXTURE / "stopped", folder))


@pytest.fixture(scope="module")
def model(stopped: Path) -> Any:
    from spdf_keras.training.run import Run

    return Run.open(stopped).load_model()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_its_checkpoint_loads_to_the_same_weights_and_masks(
    model: Any, stopped: Path
) -> None:
    weights = load_file(stopped / "checkpoints/step-00000005/weights.safetensors")
    own = model.named_weights()
    assert own.keys() == weights.keys()
    for path, value in weights.items():
        np.testing.assert_array_equal(own[path].numpy(), value)
    masks = model.named_masks()
    assert len(masks) == 12
    for path, mask in masks.items():
        np.testing.assert_array_equal(mask, weights[path] != 0)


def test_its_keras_file_loads_with_the_optimizer_and_gives_the_same_logits() -> None:
    model = load_model(FIXTURE / "model.keras")
    assert int(model.optimizer.iterations.numpy()) == 1
    ids = np.random.default_rng(0).integers(0, 300, (4, 33), dtype=np.int32)
    expected = np.load(FIXTURE / "model.logits.npy")
    np.testing.assert_allclose(model(ids[:1, :-1]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_its_tflite_files_keep_their_bytes(
    model: Any, tmp_path: Path, sparse: bool
) -> None:
    from spdf_keras.export import to_tflite

    expected = json.loads((FIXTURE / "exports.json").read_text())
    name = "sparse.tflite" if sparse else "dense.tflite"
    to_tflite(model, tmp_path / name, sparse=sparse, logits="all")
    assert sha256(tmp_path / name) == expected[name]


def test_its_xla_programs_and_weights_stay_the_same(
    stopped: Path, tmp_path: Path
) -> None:
    expected = json.loads((FIXTURE / "exports.json").read_text())["xla"]
    folder = tmp_path / "xla"
    to_xla(stopped, folder, sparse=True, check=False)
    programs = json.loads((folder / "artefact.json").read_text())["programs"]
    digests = {}
    for name, about in programs.items():
        blob = (folder / f"{name}.stablehlo").read_bytes()
        text = exported(name, about, blob).mlir_module()
        digests[name] = hashlib.sha256(text.encode()).hexdigest()
    digests["weights.safetensors"] = sha256(folder / "weights.safetensors")
    assert digests == expected


def test_its_training_goes_on_to_the_same_end(stopped: Path, tmp_path: Path) -> None:
    from spdf_keras.training.pretrain import pretrain

    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    pretrain(
        load_config(FIXTURE / "tiny.toml"), Shards.open(FIXTURE / "shards"), folder
    )
    end = load_file(folder / "checkpoints/step-00000008/weights.safetensors")
    expected = load_file(FIXTURE / "end.safetensors")
    assert end.keys() == expected.keys()
    for path, value in expected.items():
        # Another processor may add in another order.
        np.testing.assert_allclose(end[path], value, rtol=1e-4, atol=1e-6)
        assert ((end[path] == 0) == (value == 0)).all()
