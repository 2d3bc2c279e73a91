import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spdf_keras import build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError, TrainingError
from spdf_keras.training import checkpoint as module
from spdf_keras.training.checkpoint import (
    best_checkpoint,
    checkpoint_step,
    list_checkpoints,
    save_checkpoint,
)
from spdf_keras.training.restoring import restore_checkpoint


@pytest.fixture(scope="module")
def trained(tiny: GPTConfig, token_batches: Callable[..., Any]) -> Any:
    model = build_gpt(tiny, 0.75, mask_seed=5)
    model.fit(token_batches(3), verbose=0)
    return model


@pytest.fixture
def saved(trained: Any, tmp_path: Path) -> Path:
    return save_checkpoint(trained, tmp_path, 3)


def state(model: Any) -> list[bytes]:
    slots = [s for w in model.trainable_weights for s in model.optimizer.slots(w)]
    return [v.numpy().tobytes() for v in [*model.weights, *slots]]


def test_everything_comes_back_bit_for_bit(
    trained: Any, saved: Path, tiny: GPTConfig
) -> None:
    other = build_gpt(tiny, 0.75, seed=9, mask_seed=8)
    assert restore_checkpoint(other, saved, optimizer=True) == 3
    assert int(other.optimizer.iterations) == 3
    assert state(other) == state(trained)


def test_masks_take_a_bit_per_weight(saved: Path, trained: Any) -> None:
    weights = sum(mask.shape.num_elements() for mask in trained.named_masks().values())
    header = 2048
    assert (saved / "masks.safetensors").stat().st_size < weights / 8 + header


def test_only_the_newest_checkpoints_stay(trained: Any, tmp_path: Path) -> None:
    for step in (1, 2, 12):
        save_checkpoint(trained, tmp_path, step, keep=2)
    assert [checkpoint_step(path) for path in list_checkpoints(tmp_path)] == [2, 12]


def test_a_checkpoint_that_cannot_be_finished_leaves_the_one_before(
    trained: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_checksum", full_disk)
    with pytest.raises(TrainingError, match="step 4 cannot be .*No space left"):
        save_checkpoint(trained, saved.parent, 4, keep=1)
    assert list(saved.parent.iterdir()) == [saved]


def rewrite(saved: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the arrays of a file, and its size and checksum with them."""
    from safetensors.numpy import load_file, save_file

    arrays = load_file(saved / name)
    change(arrays)
    save_file(arrays, saved / name)
    entry = {
        "bytes": (saved / name).stat().st_size,
        "sha256": module._checksum(saved / name),
    }
    document = json.loads((saved / "state.json").read_text())
    document["files"][name] = entry
    (saved / "state.json").write_text(json.dumps(document))


def test_a_sparse_model_refuses_a_checkpoint_without_masks(
    tiny: GPTConfig, tmp_path: Path
) -> None:
    dense = save_checkpoint(build_gpt(tiny), tmp_path, 1)
    with pytest.raises(InputError, match=r"has no masks, .* is sparse \(sparsity=0.5"):
        restore_checkpoint(build_gpt(tiny, 0.5), dense)


def test_a_dense_model_refuses_a_checkpoint_with_masks(
    saved: Path, tiny: GPTConfig
) -> None:
    with pytest.raises(InputError, match="only one of them has a mask for 'block_0/"):
        restore_checkpoint(build_gpt(tiny), saved)


def test_a_leak_in_a_file_is_refused(saved: Path, tiny: GPTConfig) -> None:
    rewrite(saved, "weights.safetensors", lambda a: a["block_1/key/kernel"].fill(1.0))
    with pytest.raises(InputError, match="'block_1/key/kernel' is not zero where"):
        restore_checkpoint(build_gpt(tiny, 0.75), saved)


def test_another_model_is_refused_by_the_first_weight_that_differs(
    saved: Path, tiny: GPTConfig
) -> None:
    wider = build_gpt(GPTConfig(2, 4, 96, vocabulary_size=512), 0.75)
    with pytest.raises(
        InputError, match=r"'block_0/attention_norm/beta' is \(64,\) in"
    ):
        restore_checkpoint(wider, saved)


def test_damage_is_found_and_changes_nothing(saved: Path, tiny: GPTConfig) -> None:
    model = build_gpt(tiny, 0.75)
    before = [w.numpy().tobytes() for w in model.weights]

    def refuse(sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            restore_checkpoint(model, copy, optimizer=True)
        assert [w.numpy().tobytes() for w in model.weights] == before

    copy = saved.with_name("step-00000009")
    for file in ("weights", "optimizer", "masks"):
        shutil.copytree(saved, copy)
        path = copy / f"{file}.safetensors"
        content = bytearray(path.read_bytes())
        path.write_bytes(content[:-1])
        refuse(f"damaged or incomplete: {file}.safetensors has the wrong size")
        content[-1] ^= 1
        path.write_bytes(content)
        refuse(f"damaged or incomplete: {file}.safetensors has the wrong checksum")
        path.unlink()
        refuse("damaged or incomplete: .*No such file")
        shutil.rmtree(copy)
    shutil.copytree(saved, copy)
    (copy / "state.json").write_text("{}")
    refuse("damaged or incomplete")


def test_moments_are_those_of_the_kept_weights(saved: Path) -> None:
    from safetensors.numpy import load_file

    moments = load_file(saved / "optimizer.safetensors")
    weights = load_file(saved / "weights.safetensors")
    assert set(moments) == {f"{slot}/{path}" for slot in "mv" for path in weights}
    kernel = weights["block_0/output/kernel"]
    for slot in "mv":
        moment = moments[f"{slot}/block_0/output/kernel"]
        assert moment.shape == ((kernel != 0).sum(),) and moment.all()


def test_the_best_checkpoint_stays_beside_the_newest(
    trained: Any, tmp_path: Path
) -> None:
    for step, loss in ((1, 2.0), (2, 1.5), (3, 1.5), (4, None), (5, 1.75)):
        save_checkpoint(trained, tmp_path, step, keep=1, validation_loss=loss)
    steps = [checkpoint_step(path) for path in list_checkpoints(tmp_path)]
    assert steps == [2, 5]
    best = best_checkpoint(tmp_path)
    assert best is not None and checkpoint_step(best) == 2


@pytest.mark.parametrize("kept_moments", [False, True])
def test_either_way_of_holding_moments_reads_the_other_one(
    trained: Any, saved: Path, tiny: GPTConfig, tmp_path: Path, kept_moments: bool
) -> None:
    model = build_gpt(tiny, 0.75, kept_moments=kept_moments)
    restore_checkpoint(model, saved, optimizer=True)
    again = save_checkpoint(model, tmp_path / "again", 3)
    for file in saved.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_the_loss_scale_comes_back(
    tiny: GPTConfig, token_batches: Callable[..., Any], tmp_path: Path
) -> None:
    model = build_gpt(tiny, 0.75, precision="mixed_float16")
    model.fit(token_batches(2), verbose=0)
    model.optimizer.scaling_state["loss_scale"].assign(128.0)
    saved = save_checkpoint(model, tmp_path, 2)
    other = build_gpt(tiny, 0.75, precision="mixed_float16")
    restore_checkpoint(other, saved, optimizer=True)
    state = {k: float(v) for k, v in other.optimizer.scaling_state.items()}
    assert state == {"loss_scale": 128.0, "good_steps": 2.0, "skipped": 0.0}
