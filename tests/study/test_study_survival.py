"""The command `study` in processes that are killed inside its trainings."""

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
from typing import Any

import pytest
from processes import checkpoints, finish, num_lines, reaches, records, wait_for

from spdf_keras.config import config_from_tables, to_toml
from spdf_keras.data.samples.restaurants import (
    generate_restaurants,
    pretraining_text,
    write_csv,
)

Start = Callable[[Path], "subprocess.Popen[str]"]

# Facts of time and machine, which may differ between equal studies.
CONDITIONS = {"seconds", "started", "command", "versions", "hardware"}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a study of one sparsity, two trials and both ways of fine-tuning."""
    data = tmp_path_factory.mktemp("data")
    for name, count in (("trainset", 16), ("devset", 4), ("testset_w_refs", 4)):
        write_csv(generate_restaurants(count, count, 1), data / f"{name}.csv")
    (data / "text.txt").write_text("\n\n".join(pretraining_text(150, 0)))
    model = {"num_layers": 2, "num_heads": 2, "hidden_dim": 128}
    tables = {
        "model": {**model, "vocabulary_size": 400, "max_sequence_length": 256},
        "train": {"batch_size": 4, "tokens": 30 * 4 * 256, "warmup_tokens": 0}
        | {"checkpoint_every": 5, "validate_every": 10},
        "finetune": {"epochs": 3, "warmup_steps": 1, "checkpoint_every": 3},
        "decode": {"max_new_tokens": 8},
        "study": {
            **{"sparsities": [0.75], "seeds": [0], "batch_sizes": [2]},
            **{"learning_rates": [1e-3, 3e-4], "corpus": ["text.txt"]},
        },
    }
    config = data / "study.toml"
    config.write_text(to_toml(config_from_tables(tables)))

    def run(folder: Path) -> "subprocess.Popen[str]":
        command = ["study", str(config), "--data", str(data), "--out", str(folder)]
        return subprocess.Popen(
            [sys.executable, "-m", "spdf_keras", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    return run


def result(study: Path) -> dict[str, Any]:
    """Everything that a study has computed, by its place."""
    results: dict[str, Any] = {}
    for file in sorted(study.rglob("config.toml")):
        run, name = file.parent, str(file.parent.relative_to(study))
        if not (run / "metrics.jsonl").exists():
            continue
        results[f"{name} checkpoints"] = checkpoints(run)
        results[f"{name} records"] = records(run)
        results[f"{name} result"] = (run / "result.json").read_text()
    for file in sorted(study.rglob("search.json")):
        results[str(file.relative_to(study))] = file.read_text()
    for file in sorted(study.rglob("evaluation/*")):
        text = file.read_text()
        if file.suffix == ".json":
            record = json.loads(text)
            text = json.dumps({k: v for k, v in record.items() if k not in CONDITIONS})
        results[str(file.relative_to(study))] = text
    return results


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_five_times_a_study_ends_as_if_undisturbed(
    start: Start, tmp_path: Path, seed: int
) -> None:
    draw, whole, folder = random.Random(seed), tmp_path / "whole", tmp_path / "study"
    finish(start(whole))
    expected = result(whole)
    assert len([name for name in expected if name.endswith("result")]) == 5
    cell = folder / "s75" / "seed0"
    runs = ["pretrain", "e2e/stripped/b2_lr0.001", "e2e/stripped/b2_lr0.0003"]
    runs += ["e2e/kept/b2_lr0.001", "e2e/kept/b2_lr0.0003"]
    for run in (cell / name for name in runs):  # one kill inside each training
        process = start(folder)
        lines = 6 + draw.randrange(12)
        wait_for(partial(reaches, run, lines), process)
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        finish(process, -signal.SIGKILL)
        assert num_lines(run) >= lines and not (run / "result.json").exists()
        assert checkpoints(run)  # the run continues after it
    told = finish(start(folder))
    assert "[6 of 7]" in told and "[5 of 7]" not in told
    assert result(folder) == expected
