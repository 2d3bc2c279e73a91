import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras.config import Config, SparsityConfig, TrainConfig
from spdf_keras.data.samples.restaurants import pretraining_text
from spdf_keras.data.shards.prepare import write_shards
from spdf_keras.data.shards.reader import Shards
from spdf_keras.errors import InputError, TrainingError
from spdf_keras.flops import training_flops
from spdf_keras.model.build import build_gpt
from spdf_keras.sparsity import skipping
from spdf_keras.sparsity.audit import audit_masks
from spdf_keras.sparsity.skipping import StepTimes
from spdf_keras.training.pretrain import pretrain
from spdf_keras.training.restoring import restore_checkpoint
from spdf_keras.training.run import Run


class StopError(Exception):
    pass


def stop_at(step: int) -> Any:
    def report(record: dict[str, Any]) -> None:
        if record["step"] == step:
            raise StopError

    return report


def losses(run: Run) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in run.metrics() if "loss" in r]


def test_a_run_learns_and_keeps_its_masks(pretrained: Path) -> None:
    run = Run.open(pretrained)
    curve = losses(run)
    assert [step for step, _ in curve] == list(range(1, 21))
    assert curve[0][1] == pytest.approx(np.log(400), abs=0.1)
    assert curve[-1][1] < curve[0][1] - 0.5
    assert [r["step"] for r in run.metrics() if "validation_loss" in r] == [10, 20]
    reports = audit_masks(run.load_model())
    assert {r.density for r in reports} == {0.25}
    assert not any(r.violations for r in reports)
    assert list((pretrained / "tensorboard").glob("events.*"))


def test_what_a_run_returns_is_what_it_did(
    config: Config, shards: Shards, pretrained: Path, tmp_path: Path
) -> None:
    # Nothing is left to do in a finished run: its result is read off it.
    shutil.copytree(pretrained, tmp_path / "run")
    result = pretrain(config, shards, tmp_path / "run")
    assert (result["steps"], result["tokens"]) == (20, 20 * 4 * 32)
    assert result["loss"] == losses(Run.open(pretrained))[-1][1]
    assert result["flops"] == 80 * training_flops(config.model, 32, 0.75)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    config: Config, shards: Shards, pretrained: Path, tmp_path: Path
) -> None:
    with pytest.raises(StopError):
        pretrain(config, shards, tmp_path / "run", report=stop_at(13))
    pretrain(config, shards, tmp_path / "run")
    whole, resumed = Run.open(pretrained), Run.open(tmp_path / "run")
    assert losses(resumed) == losses(whole)
    for a, b in zip(whole.checkpoints(), resumed.checkpoints(), strict=True):
        for file in a.glob("*.safetensors"):
            assert file.read_bytes() == (b / file.name).read_bytes()


def test_what_auto_chose_is_told_and_kept_when_a_run_goes_on(
    config: Config, shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not skipping.available():
        pytest.skip("needs a C++ compiler")
    auto = dataclasses.replace(config.train, compute="auto", tokens=8 * 4 * 32)
    config = dataclasses.replace(config, train=auto)
    told: list[str] = []

    def run(name: str, is_wide_faster: bool, report: Any = None) -> Run:
        def timed(columns: int, rows: int, *_: Any) -> StepTimes:
            return StepTimes(1.0, 2.0 if (rows > columns) == is_wide_faster else 0.5)

        monkeypatch.setattr(skipping, "time_step", timed)
        pretrain(config, shards, tmp_path / name, report=report, tell=told.append)
        return Run.open(tmp_path / name)

    whole = run("whole", True)
    with pytest.raises(StopError):
        run("stopped", True, stop_at(7))
    resumed = run("stopped", False)  # measured anew, the others would win
    assert losses(resumed) == losses(whole)
    for a, b in zip(whole.checkpoints(), resumed.checkpoints(), strict=True):
        for file in a.glob("*.safetensors"):
            assert file.read_bytes() == (b / file.name).read_bytes()
    assert len(told) == 3
    assert told[0].startswith("Zeros are skipped in 2 of 12 masked kernels (training")
    assert told[2].startswith("Zeros are skipped in 2 of 12 masked kernels")
    assert resumed.origin()["sparse_kernels"] == [
        "block_0/intermediate/kernel",
        "block_1/intermediate/kernel",
    ]


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_afresh(
    config: Config, shards: Shards, tmp_path: Path
) -> None:
    with pytest.raises(StopError):
        pretrain(config, shards, tmp_path / "run", report=stop_at(2))
    (tmp_path / "run" / "result.json.unfinished").touch()  # as a kill leaves one
    short = dataclasses.replace(config.train, tokens=3 * 4 * 32)
    result = pretrain(
        dataclasses.replace(config, train=short), shards, tmp_path / "run"
    )
    assert [step for step, _ in losses(Run.open(tmp_path / "run"))] == [1, 2, 3]
    assert result["steps"] == 3


def test_another_setting_or_corpus_is_refused_by_name(
    config: Config, shards: Shards, pretrained: Path
) -> None:
    other = dataclasses.replace(config, sparsity=SparsityConfig(0.5, 3))
    with pytest.raises(InputError, match=r"sparsity.sparsity=0.75. Received: .*=0.5"):
        pretrain(other, shards, pretrained)
    train = dataclasses.replace(config.train, learning_rate=1.0)
    with pytest.raises(InputError, match="started with train.learning_rate=0.003"):
        pretrain(dataclasses.replace(config, train=train), shards, pretrained)


def test_a_corpus_that_does_not_fit_the_model_is_refused(
    config: Config, shards: Shards, tmp_path: Path
) -> None:
    def refuse(sentence: str, **sizes: Any) -> None:
        model = dataclasses.replace(config.model, **sizes)
        with pytest.raises(InputError, match=sentence):
            pretrain(dataclasses.replace(config, model=model), shards, tmp_path / "r")

    refuse("the model has only vocabulary_size=300", vocabulary_size=300)
    refuse(r"32 tokens, longer than .*max_sequence_length=16", max_sequence_length=16)
    assert not (tmp_path / "r").exists()


def test_a_folder_with_something_else_is_not_touched(
    config: Config, shards: Shards, tmp_path: Path
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    (tmp_path / "config.toml").write_text("mine too")
    with pytest.raises(
        InputError, match="is in use: choose another. It holds .config.toml"
    ):
        pretrain(config, shards, tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, pretrained: Path) -> None:
    with pytest.raises(InputError, match="there is no config.toml. Make one with"):
        Run.open(tmp_path / "nowhere")
    shutil.copytree(pretrained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(InputError, match="has no checkpoint yet"):
        Run.open(tmp_path / "run")


def test_a_dense_run_trains_without_masks(
    config: Config, shards: Shards, tmp_path: Path
) -> None:
    train: TrainConfig = dataclasses.replace(
        config.train, tokens=2 * 4 * 32, micro_batches=2
    )
    dense = dataclasses.replace(config, sparsity=SparsityConfig(), train=train)
    pretrain(dense, shards, tmp_path / "run")
    (checkpoint,) = Run.open(tmp_path / "run").checkpoints()
    assert not (checkpoint / "masks.safetensors").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_checkpoint(
    config: Config, shards: Shards, tmp_path: Path
) -> None:
    train = dataclasses.replace(config.train, learning_rate=1e30, clip_norm=0.0)
    broken = dataclasses.replace(config, train=dataclasses.replace(train, beta_1=0.0))
    run = Run(tmp_path / "run")
    with pytest.raises(TrainingError, match="is not finite .* so the training stops"):
        pretrain(broken, shards, run.folder)
    for checkpoint in run.checkpoints():
        model = build_gpt(config.model, 0.75, mask_seed=3)
        restore_checkpoint(model, checkpoint)
        assert all(np.isfinite(w.numpy()).all() for w in model.trainable_weights)
    assert all(np.isfinite(loss) for _, loss in losses(run))


def test_other_tokens_are_refused(
    config: Config, shards: Shards, pretrained: Path, tmp_path: Path
) -> None:
    texts = list(pretraining_text(150, seed=4))
    write_shards(texts, shards.tokenizer(), 32, tmp_path / "shards", 0.05)
    with pytest.raises(InputError, match="with the corpus 'shards' of .*other tokens"):
        pretrain(config, Shards.open(tmp_path / "shards"), pretrained)


def test_a_step_tells_what_a_user_watches(pretrained: Path, config: Config) -> None:
    run = Run.open(pretrained)
    steps = [record for record in run.metrics() if "loss" in record]
    dense, sparse = (4 * training_flops(config.model, 32, s) for s in (0.0, 0.75))
    for number, record in enumerate(steps, 1):
        assert record["exaflops"] == pytest.approx(number * sparse / 1e18)
        assert record["dense_exaflops"] == pytest.approx(number * dense / 1e18)
        speed = 4 * 32 / record["seconds"]
        assert record["tokens_per_second"] == pytest.approx(speed, rel=0.02)
        assert 0 < record["utilization"] < 1
        assert record["utilization"] * record["seconds"] == pytest.approx(
            steps[0]["utilization"] * steps[0]["seconds"], rel=0.02
        )
        assert record["gradient_norm"] > 0
    assert steps[-1]["seconds_left"] == 0
    masks = [record for record in run.metrics() if "density" in record]
    assert [record["step"] for record in masks] == [5, 10, 15, 20]
    assert set(masks[0]["density"].values()) == {0.25}
    assert set(masks[0]["violations"].values()) == {0}
