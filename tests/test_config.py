import dataclasses
from pathlib import Path

import pytest

from spdf_keras.config import (
    PRESETS,
    Config,
    GPTConfig,
    TrainConfig,
    config_from_tables,
    load_config,
    to_toml,
)
from spdf_keras.errors import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("**/*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_loads(path: Path) -> None:
    config = load_config(path)
    # The warm-up must end before the training does.
    train, model = config.train, config.model
    assert train.warmup_steps(model) < train.total_steps(model)


def test_the_papers_systems_are_shipped() -> None:
    for model in ("gpt2_small", "gpt3_xl"):
        for percent in (0, 50, 75):
            file = next(p for p in CONFIGS if p.stem == f"{model}_s{percent:02d}")
            config = load_config(file)
            assert config.sparsity.sparsity == percent / 100
            assert config.model == PRESETS[model].model
            assert config.train == PRESETS[model].train


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    config = config_from_tables(
        {"model": {"preset": "gpt3_xl"}, "train": {"jit_compile": True}},
        ["sparsity.sparsity=0.75", "train.learning_rate=3e-4"],
    )
    (tmp_path / "c.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "c.toml") == config


def test_an_override_wins_and_bare_words_are_strings() -> None:
    config = config_from_tables(
        {"train": {"batch_size": 8}},
        ["train.batch_size=16", "train.precision=mixed_bfloat16", "train.clip_norm=2"],
    )
    train = config.train
    assert (train.batch_size, train.precision) == (16, "mixed_bfloat16")
    assert train.clip_norm == 2.0 and isinstance(train.clip_norm, float)


def test_a_new_width_takes_its_feedforward_part_along() -> None:
    tables = {"model": {"preset": "gpt2_small", "hidden_dim": 96}}
    assert config_from_tables(tables).model.intermediate_dim == 384
    tables["model"]["intermediate_dim"] = 100
    assert config_from_tables(tables).model.intermediate_dim == 100


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("train.step=1", r"Unknown setting `train.step`. Known here: batch_size"),
        ("trian.seed=1", "Unknown setting `trian`. Known here: model, sparsity"),
        ("train.seed", "An override must look like `train.learning_rate=3e-4`"),
        ("train.seed=1.5", r"`train.seed` must be int. Received: 1.5"),
        ("train.seed=true", "`train.seed` must be int. Received: True"),
        ("train.batch_size=0", "`batch_size` must be positive"),
        ("train.micro_batches=3", "`micro_batches` must be a divisor of batch_size"),
        ("finetune.precision=float32", "Unknown setting `finetune.precision`"),
        ("train.precision=int8", "`precision` must be one of float32"),
        ("sparsity.sparsity=1.0", r"`sparsity` must be in \[0, 1\). Received: .*1.0"),
        ("sparsity.sparsity=nan", r"`sparsity` must be in \[0, 1\)"),
        ("model.preset=gpt9", "Unknown preset 'gpt9'. Known: gpt_nano"),
        ("model.num_heads=5", "`hidden_dim` must be a multiple of num_heads=5"),
        ("finetune.label_smoothing=1.0", r"`label_smoothing` must be in \[0, 1\)"),
        ("decode.max_new_tokens=0", "`max_new_tokens` must be positive"),
    ],
)
def test_a_wrong_setting_is_refused(line: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        config_from_tables({}, [line])


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read the config file .*No such file"):
        load_config(tmp_path / "missing.toml")
    (tmp_path / "bad.toml").write_text("[train\n")
    with pytest.raises(InputError, match=r"is not TOML: .*line 1"):
        load_config(tmp_path / "bad.toml")


def test_20_tokens_per_parameter_are_the_default() -> None:
    model = GPTConfig(1, 1, 8, vocabulary_size=10, max_sequence_length=4)
    train = TrainConfig(batch_size=2, warmup_tokens=17)
    assert train.total_steps(model) == -(-20 * model.num_parameters // 8)
    assert train.warmup_steps(model) == 3
    assert dataclasses.replace(train, tokens=9).total_steps(model) == 2
    assert Config().train.total_steps(PRESETS["gpt2_small"].model) == 4778


def test_a_small_run_of_a_preset_is_not_warm_up_alone() -> None:
    small, xl = PRESETS["gpt2_small"], PRESETS["gpt3_xl"]
    # The paper's runs: 375M tokens in steps of 256 or 512 sequences of 2,048.
    assert small.train.warmup_steps(small.model) == -(-375_000_000 // (256 * 2048))
    assert xl.train.warmup_steps(xl.model) == -(-375_000_000 // (512 * 2048))
    # The same settings for 50M tokens: 15 % of 96 steps, not all of them.
    short = dataclasses.replace(small.train, tokens=50_000_000)
    assert (short.total_steps(small.model), short.warmup_steps(small.model)) == (96, 15)
    tiny = GPTConfig(1, 1, 8, vocabulary_size=10, max_sequence_length=4)
    train = TrainConfig(batch_size=2)
    tokens = 20 * tiny.num_parameters
    assert train.warmup_steps(tiny) == -(-15 * tokens // 100 // 8)
    assert train.warmup_steps(tiny) < train.total_steps(tiny) / 6
    none = config_from_tables(
        {"model": {"preset": "gpt_nano"}}, ["train.tokens=100000"]
    )
    assert none.train.warmup_steps(none.model) == 4  # of 25; the preset says 400,000


def test_a_warm_up_that_is_given_is_taken_as_it_is() -> None:
    tables = {"model": {"preset": "gpt2_small"}}
    lines = ["train.tokens=50000000", "train.warmup_tokens=40000000"]
    config = config_from_tables(tables, lines)
    assert config.train.warmup_steps(config.model) == 77
    # A run that was started before `warmup_fraction` was there goes on as it was.
    assert config.train.warmup_fraction == 1.0
    assert config_from_tables(tables, ["train.warmup_tokens=375000000"]).train == (
        dataclasses.replace(PRESETS["gpt2_small"].train, warmup_fraction=1.0)
    )
    both = config_from_tables(tables, [*lines, "train.warmup_fraction=0.5"])
    assert both.train.warmup_steps(both.model) == 48
    with pytest.raises(InputError, match=r"`warmup_fraction` must be in \[0, 1\]"):
        config_from_tables(tables, ["train.warmup_fraction=1.5"])
