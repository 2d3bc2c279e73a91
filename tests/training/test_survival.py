"""The command `pretrain`, killed, stopped, hurt and resumed, in processes."""

import os
import random
import re
import resource
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

from spdf_keras.config import Config, config_from_tables, to_toml
from spdf_keras.data.shards.reader import Shards

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def start(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts `spdf-keras pretrain` on the small corpus into a folder."""
    model = {"num_layers": 2, "num_heads": 2, "hidden_dim": 128}
    tables = {
        "model": {**model, "vocabulary_size": 400, "max_sequence_length": 32},
        "sparsity": {"sparsity": 0.75, "seed": 3},
        "train": {
            "batch_size": 8,
            "tokens": 60 * 8 * 32,
            "warmup_tokens": 10 * 8 * 32,
            "checkpoint_every": 4,
            "validate_every": 8,
        },
    }
    file = tmp_path_factory.mktemp("config") / "config.toml"
    config: Config = config_from_tables(tables)
    file.write_text(to_toml(config))

    def run(
        folder: Path, *arguments: str, limit: int = 0, **environment: str
    ) -> "subprocess.Popen[str]":
        def limit_files() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        command = ["-m", "spdf_keras", "pretrain", str(file), "--out", str(folder)]
        return subprocess.Popen(
            [sys.executable, *command, "--data", str(shards.folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            preexec_fn=limit_files if limit else None,
        )

    return run


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(folder))
    return folder


def tensorboard_steps(folder: Path) -> list[int]:
    """The steps of the losses that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [
        event.step
        for file in sorted((folder / "tensorboard").iterdir())
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tag == "loss"
    ]


def test_sigterm_leaves_a_checkpoint_and_the_same_command_goes_on(
    start: Start, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    wait_for(lambda: list(folder.glob("checkpoints/step-*")), process)
    process.send_signal(signal.SIGTERM)
    told = finish(process, 128 + signal.SIGTERM)
    step = len([r for r in records(folder) if "loss" in r])
    assert f"stopped after step {step} of 60, with a checkpoint" in told
    newest = sorted(folder.glob("checkpoints/step-*"))[-1]
    assert newest.name == f"step-{step:08d}" and not (folder / "result.json").exists()

    # What a full disk does to the next checkpoint: an error, and nothing lost.
    before = checkpoints(folder)
    told = finish(start(folder, limit=300_000), 1)
    assert "cannot be written" in told and "File too large" in told
    assert checkpoints(folder) == before

    # A file that a failing disk has cut: the checkpoint before it serves.
    file = newest / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    told = finish(start(folder, "--resume"))
    assert f"{newest}' is damaged or incomplete: optimizer.safetensors" in told
    assert "Going on from 'step-" in told
    assert_same(folder, undisturbed)
    assert tensorboard_steps(folder) == list(range(1, 61))


def test_no_resume_refuses_a_run(start: Start, undisturbed: Path) -> None:
    before = checkpoints(undisturbed)
    told = finish(start(undisturbed, "--no-resume"), 2)
    assert "exists, and --no-resume was given. Choose another folder" in told
    assert checkpoints(undisturbed) == before


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_five_times_a_run_ends_as_if_undisturbed(
    start: Start, undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    folder = tmp_path / "run"
    writing = 0
    for kill in range(5):
        process = start(folder)
        if kill % 2:  # while a checkpoint is written
            wait_for(lambda: list(folder.glob("checkpoints/.unfinished-*")), process)
            time.sleep(draw.uniform(0, 0.004))
        else:
            lines = num_lines(folder) + 1 + (draw.randrange(12) if kill else 0)
            wait_for(partial(reaches, folder, lines), process)
            time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        finish(process, -signal.SIGKILL)
        writing += bool(list(folder.glob("checkpoints/.unfinished-*")))
    assert writing  # some did hit a checkpoint in the middle
    finish(start(folder))
    assert_same(folder, undisturbed)
    assert not list(folder.glob("checkpoints/.unfinished-*"))


@pytest.mark.slow
def test_two_workers_give_the_losses_of_one_process(
    start: Start, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for process in start_workers(start, folder):
        finish(process)
    mine, whole = records(folder), records(undisturbed)
    assert [r["step"] for r in mine] == [r["step"] for r in whole]
    for key in ("loss", "validation_loss"):
        losses = [[r[key] for r in lines if key in r] for lines in (mine, whole)]
        # Another order of sums, through 60 steps of Adam.
        np.testing.assert_allclose(losses[0], losses[1], rtol=2e-4)
    assert all(set(r["violations"].values()) == {0} for r in mine if "violations" in r)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_killed_sparse_runs_end_as_if_undisturbed_with_the_masked_losses(
    start: Start, undisturbed: Path, tmp_path: Path, precision: str
) -> None:
    settings = [
        "--set",
        "train.compute=sparse",
        "--set",
        f"train.precision={precision}",
    ]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    finish(start(whole, *settings))
    for lines in (1, 25):
        process = start(folder, *settings)
        wait_for(partial(reaches, folder, lines), process)
        process.send_signal(signal.SIGKILL)
        finish(process, -signal.SIGKILL)
    finish(start(folder, *settings))
    assert_same(folder, whole)

    workers = tmp_path / "workers"
    for process in start_workers(start, workers, *settings):
        finish(process)
    masked = undisturbed
    if precision != "float32":
        masked = tmp_path / "masked"
        finish(start(masked, *settings, "--set", "train.compute=dense"))
    right = [r["loss"] for r in records(masked) if "loss" in r]
    for run in (whole, workers):
        losses = [r["loss"] for r in records(run) if "loss" in r]
        # Another order of sums, through 60 steps of Adam; bfloat16 has 8 bits.
        rtol = 2e-4 if precision == "float32" else 5e-3
        np.testing.assert_allclose(losses, right, rtol=rtol)
        violations = [r["violations"] for r in records(run) if "violations" in r]
        assert violations and all(set(v.values()) == {0} for v in violations)


@pytest.mark.slow
def test_when_a_worker_is_killed_the_others_stop_and_all_resume(
    start: Start, tmp_path: Path
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    for process in start_workers(start, whole):
        finish(process)
    chief, other = start_workers(start, folder)
    wait_for(partial(reaches, folder, 20), chief)
    other.send_signal(signal.SIGKILL)
    finish(other, -signal.SIGKILL)
    told = finish(chief, 1)
    assert "has lost another worker, so the training stops: its last checkpoint" in told
    assert "Start all workers again with the same commands" in told
    for process in start_workers(start, folder):
        finish(process)
    assert_same(folder, whole)

    # SIGTERM to one stops all after the same step.
    folder = tmp_path / "stopped"
    both = start_workers(start, folder)
    wait_for(partial(reaches, folder, 20), both[0])
    both[1].send_signal(signal.SIGTERM)
    steps = [
        re.findall("stopped after step ([0-9]+) of 60", finish(process, 143))
        for process in both
    ]
    assert len(steps[0]) == 1 and steps[0] == steps[1]
    for process in start_workers(start, folder):
        finish(process)
    assert_same(folder, whole)


def test_devices_that_do_not_fit_are_refused(start: Start, tmp_path: Path) -> None:
    told = finish(start(tmp_path / "run", "--worker", "2", "--workers", "a:1,b:2"), 2)
    assert "`--worker` must be 0 to 1, the place of this process in `--workers`" in told
    assert not (tmp_path / "run").exists()
