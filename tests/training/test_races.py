"""Two processes that start at once with one `--out`: one wins, nothing is mixed."""

import subprocess
import sys
from pathlib import Path

import pytest

from spdf_keras.config import Config, to_toml
from spdf_keras.data.samples.restaurants import pretraining_text
from spdf_keras.data.shards.reader import Shards

# What differs between two runs of one command on one machine.
UNSTEADY = {"metrics.jsonl", "provenance.json", "card.json"}


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in UNSTEADY
        and path.parent.name != "tensorboard"
    }


@pytest.fixture(scope="module")
def commands(
    config: Config,
    shards: Shards,
    pretrained: Path,
    task: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[str]]:
    inputs = tmp_path_factory.mktemp("inputs")
    (inputs / "config.toml").write_text(to_toml(config))
    text = "\n\n".join(pretraining_text(3000, 0))
    (inputs / "corpus.txt").write_text(text)
    sizes = ["--context-length", "32", "--vocabulary-size", "400"]
    export = ["export", str(pretrained), "--format", "xla", "--signature", "decode"]
    return {
        "pretrain": [
            *("pretrain", str(inputs / "config.toml"), "--data", str(shards.folder))
        ],
        "finetune": ["finetune", str(pretrained), "--data", str(task)],
        "prepare": ["prepare", str(inputs / "corpus.txt"), *sizes],
        "export": [*export, "--no-check"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "finetune", "prepare", "export"])
def test_of_two_that_start_at_once_one_wins_and_the_other_says_so(
    commands: dict[str, list[str]], tmp_path: Path, name: str
) -> None:
    def start(out: Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "spdf_keras", *commands[name], "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
        told = process.communicate(timeout=300)[1]
        assert "Traceback" not in told
        return process.returncode, told

    assert finish(start(tmp_path / "whole"))[0] == 0
    refused = 0
    for attempt in range(3):
        out = tmp_path / f"out{attempt}"
        pair = sorted(finish(process) for process in [start(out), start(out)])
        assert pair[0][0] == 0
        status, told = pair[1]
        if status:  # else it came when the other one had finished, and did nothing
            is_late = "which exists" in told  # an export is not repeated
            assert status == 2 and ("is being written by another" in told or is_late)
            refused += "is being written by another" in told
        assert content(out) == content(tmp_path / "whole")
        assert not list(tmp_path.rglob("*.lock"))
    assert refused
