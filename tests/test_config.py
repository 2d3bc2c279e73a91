import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras.config import (
    PRESETS,
    Config,
    DecodeConfig,
    FinetuneConfig,
    GPTConfig,
    SparsityConfig,
    StudyConfig,
    TrainConfig,
    config_from_tables,
    load_config,
    to_toml,
)
from spdf_keras.errors import InputError
from spdf_keras.sparsity.masks import random_mask

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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_a_byte_order_mark_and_other_line_ends_change_nothing(
    tmp_path: Path, end: str
) -> None:
    lines = ["[train]", "learning_rate = 0.5", "", "[model]", 'preset = "gpt_nano"']
    (tmp_path / "a.toml").write_bytes(("\ufeff" + end.join(lines)).encode())
    config = load_config(tmp_path / "a.toml")
    assert config.train.learning_rate == 0.5 and config.model.hidden_dim == 128


def test_20_tokens_per_parameter_are_the_default() -> None:
    model = GPTConfig(1, 1, 8, vocabulary_size=10, max_sequence_length=4)
    train = TrainConfig(batch_size=2, warmup_tokens=17)
    assert train.total_steps(model) == -(-20 * model.num_parameters // 8)
    assert train.warmup_steps(model) == 3
    assert dataclasses.replace(train, tokens=9).total_steps(model) == 2
    assert Config().train.total_steps(PRESETS["gpt2_small"].model) == 4778


SECTIONS = [
    *(GPTConfig, SparsityConfig, TrainConfig, FinetuneConfig, DecodeConfig),
    StudyConfig,
]


def fields_of(*kinds: Any) -> list[Any]:
    return [
        pytest.param(section, f.name, id=f"{section.__name__}.{f.name}")
        for section in SECTIONS
        for f in dataclasses.fields(section)
        if f.type in kinds
    ]


@pytest.mark.parametrize(("section", "name"), fields_of(int))
def test_an_integer_may_come_as_any_number_that_is_one(section: Any, name: str) -> None:
    value = max(getattr(section(), name), 1)
    forms = [np.int64(value), np.uint32(value), np.float64(value), float(value)]
    for form in [*forms, np.array(value), Fraction(value)]:
        built = section(**{name: form})
        assert type(getattr(built, name)) is int
        assert built == section(**{name: value})
        assert hash(built) == hash(section(**{name: value}))


@pytest.mark.parametrize(("section", "name"), fields_of(float))
def test_a_float_may_come_as_any_number(section: Any, name: str) -> None:
    for form in (np.float32(0.5), np.float64(0.5), np.float16(0.5), Fraction(1, 2)):
        built = section(**{name: form})
        assert built == section(**{name: 0.5}) and type(getattr(built, name)) is float


def test_lists_and_truth_values_may_be_numpys() -> None:
    lists: Any = {"seeds": np.arange(2), "learning_rates": [np.float32(0.5), 1]}
    study = StudyConfig(**lists)
    assert study == StudyConfig(seeds=(0, 1), learning_rates=(0.5, 1.0))
    scalars: Any = {"jit_compile": np.bool_(True), "precision": np.str_("float32")}
    train = TrainConfig(**scalars)
    assert train == TrainConfig(jit_compile=True)
    assert to_toml(Config(train=train, study=study)).count("np.") == 0


def test_toml_and_overrides_take_1e6_for_an_integer(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[train]\ntokens = 1e6\nbatch_size = 8.0\n")
    train = load_config(tmp_path / "c.toml", ["train.warmup_tokens=2.5e3"]).train
    assert (train.tokens, train.batch_size, train.warmup_tokens) == (10**6, 8, 2500)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (TrainConfig, "batch_size", 8.5),
        (TrainConfig, "batch_size", "8"),
        (TrainConfig, "batch_size", True),
        (TrainConfig, "tokens", float("inf")),
        (TrainConfig, "jit_compile", 1),
        (TrainConfig, "learning_rate", "1e-3"),
        (TrainConfig, "learning_rate", None),
        (TrainConfig, "learning_rate", np.ones(2)),
        (GPTConfig, "num_layers", [2]),
        (StudyConfig, "seeds", 3),
        (StudyConfig, "seeds", [0.5]),
        (StudyConfig, "corpus", "wikitext2/train.txt"),
    ],
)
def test_a_value_of_another_type_is_refused(
    section: Any, name: str, value: Any
) -> None:
    with pytest.raises(InputError, match=f"`{name}` must be .*Received: "):
        section(**{name: value})


@pytest.mark.parametrize(
    ("section", "name"), fields_of(float, tuple[float, ...], int, tuple[int, ...])
)
def test_numbers_that_nothing_can_hold_are_refused(section: Any, name: str) -> None:
    """Whatever the setting, one sentence that names it."""
    inf, nan = float("inf"), float("nan")
    is_tuple = isinstance(getattr(section(), name), tuple)
    for number in (inf, -inf, nan, 1e39, 10**5000, -(10**5000)):
        value = [number] if is_tuple else number
        with pytest.raises(InputError, match=f"`(sparsity|{name})` must be "):
            section(**{name: value})


@pytest.mark.parametrize(
    ("section", "name", "value", "must"),
    [
        (TrainConfig, "learning_rate", float("inf"), "finite"),
        (TrainConfig, "learning_rate", 1e-50, "of a size from 1.2e-38 to 3.4e38"),
        (TrainConfig, "weight_decay", 1e300, "of a size from 1.2e-38 to 3.4e38"),
        (TrainConfig, "beta_2", 0.99999999, r"in \[0, 1\) as float32 rounds it"),
        (DecodeConfig, "temperature", float("inf"), "finite"),
        (DecodeConfig, "repetition_penalty", float("inf"), "finite"),
        (DecodeConfig, "length_penalty", float("-inf"), "finite"),
        (TrainConfig, "seed", 2**63, "an integer of size 9223372036854775807 at most"),
        (DecodeConfig, "max_new_tokens", 1e12, "an integer of size 2147483647 at most"),
        (StudyConfig, "learning_rates", [1e-3, float("nan")], "finite"),
        (StudyConfig, "learning_rates", [float("inf")], "finite"),
    ],
)
def test_such_a_number_gets_its_reason(
    section: Any, name: str, value: Any, must: str
) -> None:
    with pytest.raises(InputError, match=rf"`{name}` must be .*{must}"):
        section(**{name: value})


def test_float32_bounds_what_a_beta_may_be() -> None:
    # Independently: NumPy's float32.
    for beta in (0.999, 0.9999999, 0.99999997, 0.99999998, 0.99999999999):
        if np.float32(beta) < 1:
            assert TrainConfig(beta_1=beta).beta_1 == beta
        else:
            with pytest.raises(InputError, match="`beta_1` must be in"):
                TrainConfig(beta_1=beta)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda n: f"[train]\ntokens = {'9' * n}\n", "more than 4,300 digits"),
        (lambda n: f"[study]\nseeds = {'[' * n}{']' * n}\n", "nested too deeply"),
    ],
)
def test_toml_that_python_cannot_hold_is_one_sentence(
    tmp_path: Path, write: Callable[[int], str], sentence: str
) -> None:
    (tmp_path / "c.toml").write_text(write(5000))
    with pytest.raises(InputError, match=f"is not TOML: it .*{sentence}"):
        load_config(tmp_path / "c.toml")


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000 + "]" * 5000])
def test_an_override_that_python_cannot_hold_is_one_sentence(value: str) -> None:
    with pytest.raises(InputError, match="`--set study.seeds` cannot be used: it "):
        config_from_tables({}, [f"study.seeds={value}"])


def test_a_preset_must_be_a_name() -> None:
    with pytest.raises(InputError, match=r"Unknown preset '\[1\]'"):
        config_from_tables({}, ["model.preset=[1]"])


def test_masks_do_not_depend_on_the_type_of_their_numbers() -> None:
    expected = random_mask("a", (8, 16), 0.75, 3)
    sparsities: list[Any] = [0.75, np.float32(0.75), np.float64(0.75)]
    seeds: list[Any] = [3, np.int64(3), 3.0, np.float32(3)]
    for sparsity in sparsities:
        for seed in seeds:
            assert (random_mask("a", (8, 16), sparsity, seed) == expected).all()


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
