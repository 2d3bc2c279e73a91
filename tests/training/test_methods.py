"""Methods that update masks: the invariant in every mode, and exact resume."""

import json
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
from processes import assert_same, finish, num_lines, reaches, records, wait_for

from spdf_keras.config import Config, config_from_tables, to_toml
from spdf_keras.data.shards.reader import Shards

# Updates before the seventh step: masks change so often at least.
LEAST_UPDATES = {"redense": 2, "one_shot": 1}


# All 480 cells take half an hour.
@pytest.mark.parametrize("sample", ["7", pytest.param("", marks=pytest.mark.slow)])
def test_masks_and_their_counts_hold_in_every_mode(sample: str) -> None:
    program = Path(__file__).with_name("method_cells.py")
    done = subprocess.run(
        [sys.executable, program, *filter(None, [sample])],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    cells = [json.loads(line) for line in done.stdout.splitlines()]
    tried = 0
    for cell in cells:
        name = cell["cell"]
        if "refused" in cell:
            assert "-xla-" in name and "-2-" in name, cell
            continue
        tried += 1
        assert cell["steps"] == 7 and cell["violations"] == 0, name
        assert cell["exact"] and cell["same_everywhere"], name
        assert cell["updates"] >= LEAST_UPDATES.get(name.split("-")[0], 2), name
    assert tried > len(cells) / 2


METHODS: dict[str, dict[str, Any]] = {
    "set": {},
    "rigl": {"distribution": "erk"},
    "gmp": {},
    "redense": {"stages": [0.5, 0.0], "shares": [0.3, 0.6]},
    "magnitude_ste": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_ten_times_around_updates_a_run_ends_as_if_undisturbed(
    shards: Shards, tmp_path: Path, method: str
) -> None:
    config: Config = config_from_tables(
        {
            "model": {
                "num_layers": 2,
                "num_heads": 2,
                "hidden_dim": 128,
                "vocabulary_size": 400,
                "max_sequence_length": 32,
            },
            "sparsity": {
                "sparsity": 0.75,
                "seed": 3,
                "method": method,
                "interval": 3,
                **METHODS[method],
            },
            "train": {
                "batch_size": 8,
                "tokens": 40 * 8 * 32,
                "warmup_tokens": 10 * 8 * 32,
                "checkpoint_every": 4,
                "validate_every": 8,
            },
        }
    )
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))

    def start(folder: Path) -> "subprocess.Popen[str]":
        command = ["-m", "spdf_keras", "pretrain", str(file), "--out", str(folder)]
        return subprocess.Popen(
            [sys.executable, *command, "--data", str(shards.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    whole, folder = tmp_path / "whole", tmp_path / "run"
    finish(start(whole))
    updates = [r for r in records(whole) if "mask_density" in r]
    assert len(updates) >= 2
    kill_ten_times(folder, start, random.Random(method))
    finish(start(folder))
    assert_same(folder, whole)


def kill_ten_times(
    folder: Path,
    start: Callable[[Path], "subprocess.Popen[str]"],
    draw: random.Random,
) -> None:
    for _ in range(10):
        process = start(folder)
        before = num_lines(folder)
        wait_for(partial(reaches, folder, before + draw.randrange(1, 6)), process)
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        finish(process, -signal.SIGKILL)
