"""The command `finetune`, killed, stopped and resumed, in processes."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import (
    assert_same,
    checkpoints,
    finish,
    num_lines,
    reaches,
    records,
    start_workers,
    wait_for,
)

from spdf_keras.config import Config
from spdf_keras.data.shards.reader import Shards
from spdf_keras.training.pretrain import pretrain

Start = Callable[..., "subprocess.Popen[str]"]

# Fifteen steps of ten epochs, the last few of which do not improve on the best.
SETTINGS = [
    *("batch_size=2", "epochs=10", "patience=3", "learning_rate=2e-2"),
    *("warmup_steps=2", "checkpoint_every=4"),
]


@pytest.fixture(scope="module")
def base(
    config: Config, shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small run whose fine-tuning takes long enough to be hit by a kill."""
    model = dataclasses.replace(config.model, hidden_dim=128, intermediate_dim=512)
    folder = tmp_path_factory.mktemp("base") / "pretrain"
    pretrain(dataclasses.replace(config, model=model), shards, folder)
    return folder


@pytest.fixture(scope="module")
def start(base: Path, task: Path) -> Start:
    """Starts `spdf-keras finetune` of that run into a folder."""

    def run(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
        command = ["-m", "spdf_keras", "finetune", str(base), "--out", str(folder)]
        settings = [part for s in SETTINGS for part in ("--set", f"finetune.{s}")]
        return subprocess.Popen(
            [sys.executable, *command, "--data", str(task), *settings, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    return run


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(folder))
    return folder


# It takes a minute; `test_survival.py` stops a pre-training in the fast tests.
@pytest.mark.slow
def test_a_finetuning_that_is_stopped_says_so_and_goes_on_to_the_same_bytes(
    start: Start, undisturbed: Path, task: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    wait_for(lambda: len(list(folder.glob("checkpoints/step-*"))) > 2, process)
    process.send_signal(signal.SIGTERM)
    told = finish(process, 128 + signal.SIGTERM)
    step = len([r for r in records(folder) if "loss" in r])
    assert f"finetune: stopped after step {step} of 60, with a checkpoint" in told
    newest = sorted(folder.glob("checkpoints/step-*"))[-1]
    assert newest.name == f"step-{step:08d}" and not (folder / "result.json").exists()

    # Who reads it is told, and nothing is written to it but what was asked for.
    before = checkpoints(folder)
    command = [sys.executable, "-m", "spdf_keras", "generate", str(folder)]
    done = subprocess.run(
        [*command, "--prompt", "name[Aromi]", "--task", "e2e"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"The run '{folder}' is not finished: its checkpoint of step" in done.stderr
    assert "of 60 is used" in done.stderr and checkpoints(folder) == before

    # A second process finds the first one, whatever it is at.
    process = start(folder)
    wait_for(lambda: (folder / ".spdf_keras.lock").exists(), process)
    refused = finish(start(folder), 2)
    assert "is being written by another process: `spdf-keras finetune`, process " in (
        refused
    )
    assert str(process.pid) in refused
    process.send_signal(signal.SIGKILL)
    finish(process, -signal.SIGKILL)
    finish(start(folder))
    assert_same(folder, undisturbed)
    assert len(checkpoints(folder)) == 3  # of the best epoch alone
    best = json.loads((folder / "result.json").read_text())
    assert best["epochs"] == best["best_epoch"] + 3 < 10
    told = finish(start(folder))
    assert "is finished: nothing is left to do" in told
    assert_same(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_five_times_a_finetuning_ends_as_if_undisturbed(
    start: Start, undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    folder = tmp_path / "run"
    for kill in range(5):
        process = start(folder)
        if kill % 2:  # while a checkpoint is written
            wait_for(lambda: list(folder.glob("checkpoints/.unfinished-*")), process)
            time.sleep(draw.uniform(0, 0.004))
        else:
            lines = num_lines(folder) + 1 + (draw.randrange(9) if kill else 0)
            wait_for(partial(reaches, folder, lines), process)
            time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        finish(process, -signal.SIGKILL)
    finish(start(folder))
    assert_same(folder, undisturbed)
    assert not list(folder.glob("checkpoints/.unfinished-*"))


@pytest.mark.slow
def test_replicas_and_workers_give_the_losses_of_one_device(
    start: Start, tmp_path: Path
) -> None:
    few = ["--set", "finetune.learning_rate=1e-4", "--set", "finetune.epochs=2"]
    mirrored = ["--strategy", "mirrored", "--replicas", "2"]
    finish(start(tmp_path / "one", *few))
    finish(start(tmp_path / "mirrored", *mirrored, *few))
    for process in start_workers(start, tmp_path / "workers", *few):
        finish(process)
    one = records(tmp_path / "one")
    for name in ("mirrored", "workers"):
        mine = records(tmp_path / name)
        for key in ("loss", "validation_loss"):
            losses = [[r[key] for r in lines if key in r] for lines in (mine, one)]
            assert len(losses[0]) == len(losses[1]) == (12 if key == "loss" else 2)
            # Another order of sums.
            np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
