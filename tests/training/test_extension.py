"""Runs that go on for longer, or with other settings that change no result."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras.config import Config
from spdf_keras.data.shards.reader import Shards
from spdf_keras.errors import InputError
from spdf_keras.training.pretrain import pretrain
from spdf_keras.training.run import Run

STEP = 4 * 32  # tokens


def change(config: Config, **settings: Any) -> Config:
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, **settings)
    )


def cosine(step: int, total: int, warmup: int = 2, peak: float = 3e-3) -> float:
    """The schedule of appendix A.1 in float64: the rate of a step counted from 1."""
    done = step - 1
    if done < warmup:
        return peak * (done + 1) / warmup
    share = (done - warmup) / (total - warmup)
    return peak * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * share)))


def rates(run: Run) -> dict[int, float]:
    return {r["step"]: r["learning_rate"] for r in run.metrics() if "loss" in r}


def test_a_finished_run_is_extended_and_the_new_schedule_is_told(
    config: Config, shards: Shards, pretrained: Path, tmp_path: Path
) -> None:
    run, told = Run(tmp_path / "run"), list[str]()
    shutil.copytree(pretrained, run.folder)
    longer = change(config, tokens=30 * STEP)
    result = pretrain(longer, shards, run.folder, tell=told.append)
    assert (result["steps"], result["tokens"]) == (30, 30 * STEP)
    assert run.result() == result and run.config() == longer
    (sentence,) = [text for text in told if "cosine" in text]
    assert "goes on from step 20 to step 30; it was to end at 20" in sentence
    was, now, last = cosine(21, 20 + 10**9), cosine(21, 30), cosine(30, 30)
    assert f"step 21 has {now:.3g} (by the old schedule 0.0003)" in sentence
    assert f"the last has {last:.3g}" in sentence and was != now
    for step, rate in rates(run).items():
        expected = cosine(step, 20 if step <= 20 else 30)
        assert rate == pytest.approx(expected, rel=1e-5)
    (entry,) = run.origin()["changes"]
    assert entry["after_step"] == 20 and run.origin()["total_steps"] == 30
    # The longer run is complete: it is not shortened, and not begun again.
    with pytest.raises(
        InputError, match="tokens=3840, which is 30 steps.*=2560, 20 st"
    ):
        pretrain(config, shards, run.folder)
    again = list[str]()
    assert pretrain(longer, shards, run.folder, tell=again.append) == result
    assert again == [f"The run '{run.folder}' has all its 30 steps: nothing is left."]


class StopError(Exception):
    pass


def test_what_changes_no_result_may_change_when_a_run_goes_on(
    config: Config, shards: Shards, pretrained: Path, tmp_path: Path
) -> None:
    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 12:
            raise StopError

    run, told = Run(tmp_path / "run"), list[str]()
    with pytest.raises(StopError):
        pretrain(config, shards, run.folder, report=stop)
    other = change(
        config,
        keep_checkpoints=3,
        checkpoint_every=4,
        validate_every=5,
        micro_batches=2,
        recompute=True,
    )
    pretrain(other, shards, run.folder, tell=told.append)
    assert "train.keep_checkpoints is 3 from here on; it was 2." in told
    assert len(told) == 5 and run.config() == other
    assert [p.name[-2:] for p in run.checkpoints()] == ["12", "16", "20"]
    mine, whole = (
        [r["loss"] for r in r.metrics() if "loss" in r] for r in (run, Run(pretrained))
    )
    # Parts and recomputation add up in another order.
    np.testing.assert_allclose(mine, whole, rtol=1e-5)
    assert json.dumps(run.origin()["changes"]).count("it was") == 5


@pytest.mark.parametrize(
    ("setting", "value"), [("learning_rate", 1e-3), ("batch_size", 8), ("seed", 1)]
)
def test_what_changes_the_result_may_not(
    config: Config, shards: Shards, pretrained: Path, setting: str, value: Any
) -> None:
    before = {f: f.read_bytes() for f in pretrained.rglob("*") if f.is_file()}
    told = rf"started with train.{setting}=.*Received: train.{setting}={value}"
    with pytest.raises(InputError, match=told):
        pretrain(change(config, **{setting: value}), shards, pretrained)
    assert {f: f.read_bytes() for f in before} == before
