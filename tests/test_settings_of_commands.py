"""Each command reads some settings, and refuses or names the others."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.cli import main
from spdf_keras.commands.arguments import read_config
from spdf_keras.commands.study import _INSTEAD, _READS
from spdf_keras.config import Config, config_from_tables
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.errors import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))
TUNE = ["finetune", "decode"]
BASE = config_from_tables(
    {
        "model": {"preset": "gpt_nano"},
        "finetune": {"epochs": 3, "learning_rate": 2e-3, "batch_size": 10},
        "decode": {"num_beams": 4, "max_new_tokens": 9},
    }
)


def read(reads: Any, *lines: str, file: Any = None, base: Any = BASE) -> Config:
    args = Namespace(command="finetune", overrides=list(lines))
    return read_config(args, reads, file and str(file), base)


def test_a_file_with_one_table_leaves_the_others_as_the_run_has_them(
    tmp_path: Path,
) -> None:
    file = tmp_path / "decode.toml"
    file.write_text("[decode]\nnum_beams = 2\n")
    config = read(TUNE, file=file)
    assert config.finetune == BASE.finetune and config.model == BASE.model
    assert (config.decode.num_beams, config.decode.max_new_tokens) == (2, 9)
    file.write_text("[finetune]\nmicro_batches = 5\n")  # divides the run's batch of 10
    config = read(TUNE, "finetune.seed=1", "decode.num_beams=3", file=file)
    assert (config.finetune.epochs, config.finetune.learning_rate) == (3, 2e-3)
    assert (config.finetune.micro_batches, config.finetune.seed) == (5, 1)
    assert config.decode.num_beams == 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_fine_tuning_takes_its_tables_of_any_config(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = path.read_text("utf-8")
    tables = [line[1:-1] for line in text.splitlines() if line.startswith("[")]
    if not {"finetune", "decode"} & set(tables):
        with pytest.raises(InputError, match=r"reads, which are those of \[finetune\]"):
            read(TUNE, file=path)
        return
    config = read(TUNE, file=path)
    assert (config.model, config.train) == (BASE.model, BASE.train)
    said = capsys.readouterr().err
    for table in tables:
        assert (f"[{table}]" in said) == (table not in TUNE)


@pytest.mark.parametrize(
    ("reads", "line"),
    [
        (TUNE, "model.num_layers=7"),
        (TUNE, "model.preset=gpt_nano"),
        (TUNE, "sparsity.sparsity=0.5"),
        (TUNE, "train.learning_rate=1e-3"),
        (TUNE, "study.seeds=[1]"),
        (get_task("e2e").decoding_settings, "finetune.sequence_length=99"),
        (get_task("curation").decoding_settings, "finetune.epochs=2"),
        (["decode"], "model.num_heads=4"),
    ],
)
def test_a_setting_that_is_not_read_is_refused(reads: list[str], line: str) -> None:
    name = line.split("=")[0]
    with pytest.raises(InputError, match=f"`--set {name}` changes nothing in"):
        read(reads, line)


def test_the_length_of_a_cut_context_is_read() -> None:
    reads = get_task("curation").decoding_settings
    config = read(reads, "finetune.sequence_length=99")
    assert config.finetune.sequence_length == 99


@pytest.mark.parametrize("name", _INSTEAD)
def test_what_a_study_sets_itself_is_refused(name: str) -> None:
    args = Namespace(command="study", overrides=[f"{name}=1"])
    with pytest.raises(InputError, match=rf"comes from {_INSTEAD[name]}\. Leave"):
        read_config(args, _READS, instead=_INSTEAD)


def test_what_is_unknown_or_wrong_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown setting `trian`"):
        read(TUNE, "trian.seed=1")
    with pytest.raises(InputError, match=r"Unknown setting `model.depth`. Known here"):
        read(TUNE, "model.depth=7")
    file = tmp_path / "c.toml"
    file.write_text("[decode]\nseed = 1\n[model]\nnum_layers = 0\n")
    with pytest.raises(InputError, match="`num_layers` must be positive"):
        read(TUNE, file=file)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("pretrain {c} --data {d} --out {d}/o", "study.seeds=[1]"),
        ("study {c} --data {d} --out {d}/o", "train.seed=1"),
        ("quickstart --out {d}/o", "sparsity.sparsity=0.5"),
        ("quickstart --out {d}/o", "study.seeds=[1]"),
    ],
)
def test_commands_refuse_before_they_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, line: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[model]\npreset = "gpt_nano"\n')
    words = command.format(c=config, d=tmp_path).split()
    assert main([*words, "--set", line]) == 2
    name = line.split("=")[0]
    error = capsys.readouterr().err
    assert f"`--set {name}` changes nothing in `spdf-keras {words[0]}`" in error
    assert error.count("\n") == 1 and not (tmp_path / "o").exists()
