"""Every setting: type, default, meaning, valid values; and Table 1's presets.

A setting is a field of one of the frozen dataclasses below. Config files are
TOML with one table per dataclass; `load_config` checks every name and type, so
a misspelt setting never passes in silence. Nothing here needs TensorFlow.
"""

import dataclasses
import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.parsing import load_toml
from spdf_keras.values import as_float32, as_type, check_floats, check_integers, shown

STRATEGIES = ("none", "mirrored", "multi_worker", "tpu")
COMPUTES = ("dense", "sparse", "auto")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def check_sparsity(sparsity: float, where: str = "") -> float:
    """Returns `sparsity` if it is a number in `[0, 1)`, else raises `InputError`."""
    try:
        number = as_type("sparsity", float, sparsity)
    except InputError:
        number = math.nan
    if not 0.0 <= number < 1.0:
        raise InputError(
            f"`sparsity` must be in [0, 1). Received: sparsity={shown(sparsity)}"
            f"{where}."
        )
    return float(number)


def check_seed(seed: int, name: str = "seed") -> int:
    """Returns `seed` as an integer if it is one of at least 0, else raises."""
    number = int(as_type(name, int, seed))
    if number < 0:
        raise InputError(f"`{name}` must be at least 0. Received: {name}={number}.")
    check_integers(name, number)
    return number


def _check(section: Any, name: str, ok: bool, must: str) -> None:
    if not ok:
        value = getattr(section, name)
        raise InputError(f"`{name}` must be {must}. Received: {name}={shown(value)}.")


def _check_positive(section: Any, *names: str) -> None:
    for name in names:
        _check(section, name, getattr(section, name) > 0, "positive")


def _check_not_negative(section: Any, *names: str) -> None:
    for name in names:
        _check(section, name, getattr(section, name) >= 0, "at least 0")


def _check_fraction(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        is_one = value < 1.0 and as_float32(value) == 1.0
        must = "in [0, 1)" + (" as float32 rounds it" if is_one else "")
        _check(section, name, 0.0 <= value < 1.0 and not is_one, must)


class _Section:
    """What the dataclasses below share: values of the right type and size."""

    def __post_init__(self) -> None:
        types = {f.name: f.type for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        for name, kind in types.items():
            value = as_type(name, kind, getattr(self, name))
            check_integers(name, value)
            object.__setattr__(self, name, value)
        # A setting's own bounds come first: they say more than "finite".
        self._check_values()
        for name in types:
            check_floats(name, getattr(self, name))

    def _check_values(self) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class GPTConfig(_Section):
    """Sizes of a GPT. Table 1 gives those of the paper's two models.

    Attributes:
        num_layers: Decoder blocks.
        num_heads: Attention heads; must divide `hidden_dim`.
        hidden_dim: Width of the residual stream, `d_model` in the paper.
        intermediate_dim: Width inside the feedforward part; 0 means
            `4 * hidden_dim`, as in the paper.
        vocabulary_size: Token ids run from 0 to `vocabulary_size - 1`.
        max_sequence_length: Positions that have an embedding.
        layer_norm_epsilon: Added to the variance in each LayerNorm.
    """

    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 768
    intermediate_dim: int = 0
    vocabulary_size: int = 50257
    max_sequence_length: int = 2048
    layer_norm_epsilon: float = 1e-5

    def _check_values(self) -> None:
        if self.intermediate_dim == 0:
            object.__setattr__(self, "intermediate_dim", 4 * self.hidden_dim)
        _check_positive(self, *(f.name for f in dataclasses.fields(self)))
        must = f"a multiple of num_heads={self.num_heads}"
        _check(self, "hidden_dim", self.hidden_dim % self.num_heads == 0, must)

    @property
    def num_parameters(self) -> int:
        """Trainable parameters, the tied embedding counted once."""
        d, f = self.hidden_dim, self.intermediate_dim
        block = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d
        tables = (self.vocabulary_size + self.max_sequence_length) * d
        return tables + self.num_layers * block + 2 * d


@dataclass(frozen=True)
class SparsityConfig(_Section):
    """Fixed random masks.

    Attributes:
        sparsity: Fraction of zeros in each of the six matrices of every block,
            in `[0, 1)`. 0 trains the plain dense model.
        seed: Seed of the masks.
    """

    sparsity: float = 0.0
    seed: int = 0

    def _check_values(self) -> None:
        check_sparsity(self.sparsity)
        _check_not_negative(self, "seed")


@dataclass(frozen=True)
class StepConfig(_Section):
    """An optimizer step: what pre-training and fine-tuning share.

    Attributes:
        batch_size: Sequences in one optimizer step.
        micro_batches: Parts that a batch is computed in, one after the other;
            must divide `batch_size`. More parts need less memory.
        learning_rate: Peak of the schedule.
        beta_1: AdamW's decay of the first moment.
        beta_2: AdamW's decay of the second moment. The paper says 0.999; a
            public configuration of the same group has 0.95.
        epsilon: AdamW's epsilon, added after the bias correction.
        weight_decay: Decoupled decay of matrices and of both embedding tables
            (GPT-2's convention); never of biases and LayerNorm.
        clip_norm: Bound of the gradient's global norm; 0 does not clip.
        seed: Seed of the data order, and in pre-training of the initial weights.
        jit_compile: Compile the step with XLA.
        recompute: Compute each block again in the backward pass instead of keeping
            its activations: less memory, for about a third more operations.
        kept_moments: Hold AdamW's moments of kept weights alone; see `AdamW`.
        checkpoint_every: Steps between checkpoints; 0 is at the end alone. Fine-tuning
            also writes one after each epoch.
        keep_checkpoints: How many of the newest checkpoints stay; the one of the
            lowest validation loss stays too.
    """

    batch_size: int = 256
    micro_batches: int = 1
    learning_rate: float = 6e-4
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0
    jit_compile: bool = False
    recompute: bool = False
    kept_moments: bool = False
    checkpoint_every: int = 500
    keep_checkpoints: int = 2

    def _check_values(self) -> None:
        _check_positive(self, "batch_size", "micro_batches", "learning_rate", "epsilon")
        _check_positive(self, "keep_checkpoints")
        _check_not_negative(self, "weight_decay", "clip_norm", "seed")
        _check_not_negative(self, "checkpoint_every")
        _check_fraction(self, "beta_1", "beta_2")
        divides = self.batch_size % self.micro_batches == 0
        must = f"a divisor of batch_size={self.batch_size}"
        _check(self, "micro_batches", divides, must)


@dataclass(frozen=True)
class TrainConfig(StepConfig):
    """Pre-training; the defaults are appendix A.1 and Table 1's GPT-2 Small.

    Attributes:
        tokens: Training tokens; 0 means 20 per parameter (Table 1's caption).
        warmup_tokens: Tokens over which the learning rate rises linearly.
        warmup_fraction: At most this fraction of all tokens warms up, so that a small
            run of a preset is not warm-up alone; 0.15 leaves the paper's 375M tokens
            as they are. Where `warmup_tokens` is given, it is 1 unless given too.
        final_learning_rate: Where the cosine ends, as a fraction of the peak.
        precision: `float32`, `mixed_bfloat16`, or `mixed_float16`, which scales
            the loss; the model keeps it.
        compute: How masked products are computed in training: `dense` multiplies the
            zeros, `sparse` skips them (on CPUs, in float32, without `jit_compile`),
            `auto` takes the faster for each shape of kernel.
        validate_every: Steps between validation losses; 0 is at the end alone.
    """

    tokens: int = 0
    warmup_tokens: int = 375_000_000
    warmup_fraction: float = 0.15
    final_learning_rate: float = 0.1
    precision: str = "float32"
    compute: str = "dense"
    validate_every: int = 500

    def _check_values(self) -> None:
        super()._check_values()
        _check_not_negative(self, "tokens", "warmup_tokens", "validate_every")
        for name in ("final_learning_rate", "warmup_fraction"):
            _check(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        known = self.precision in PRECISIONS
        _check(self, "precision", known, "one of " + ", ".join(PRECISIONS))
        known = self.compute in COMPUTES
        _check(self, "compute", known, "one of " + ", ".join(COMPUTES))
        if self.compute != "dense":
            fits = self.precision == "float32" and not self.jit_compile
            must = "dense unless precision is float32 and jit_compile is false"
            _check(self, "compute", fits, must)

    def total_steps(self, model: GPTConfig, sequence_length: int = 0) -> int:
        """Optimizer steps to see all training tokens, rounded up.

        Args:
            model: Gives the number of parameters where `tokens` is 0.
            sequence_length: Tokens per sequence; 0 is the model's context.
        """
        tokens = self._total_tokens(model)
        return math.ceil(tokens / self._step_tokens(model, sequence_length))

    def warmup_steps(self, model: GPTConfig, sequence_length: int = 0) -> int:
        """Optimizer steps that warm up, rounded up."""
        most = self.warmup_fraction * self._total_tokens(model)
        tokens = min(self.warmup_tokens, most)
        return math.ceil(tokens / self._step_tokens(model, sequence_length))

    def _total_tokens(self, model: GPTConfig) -> int:
        return self.tokens or 20 * model.num_parameters

    def _step_tokens(self, model: GPTConfig, sequence_length: int) -> int:
        return self.batch_size * int(sequence_length or model.max_sequence_length)


@dataclass(frozen=True)
class FinetuneConfig(StepConfig):
    """Dense fine-tuning; appendix A.2, and the LoRA recipe that it points to.

    The paper's grid is 8 to 64 for `batch_size`, and 1e-4, 5e-5 and 2.5e-5 for
    `learning_rate`, the peak of a linear schedule.

    Attributes:
        epochs: Passes over the training examples, at most.
        patience: Epochs without a better validation loss before it stops.
        warmup_steps: Steps over which the learning rate rises linearly; at
            most a tenth of all steps is used.
        sequence_length: Longest example, context and target together, in
            tokens. Batches are padded to their own longest example.
        label_smoothing: Weight of the uniform distribution in the loss.
        keep_masks: Fine-tune the kept weights alone, masks and all: the baseline
            that dense fine-tuning is argued against.
    """

    batch_size: int = 8
    learning_rate: float = 1e-4
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 0.0
    epochs: int = 5
    patience: int = 1
    warmup_steps: int = 500
    sequence_length: int = 512
    label_smoothing: float = 0.1
    keep_masks: bool = False

    def _check_values(self) -> None:
        super()._check_values()
        _check_positive(self, "epochs", "patience", "sequence_length")
        _check_not_negative(self, "warmup_steps")
        _check_fraction(self, "label_smoothing")


@dataclass(frozen=True)
class DecodeConfig(_Section):
    """How `generate` and `evaluate` decode.

    The defaults are greedy. The LoRA recipe, which the paper's tables use, is 10
    beams, `length_penalty` 0.8 and `no_repeat_ngram_size` 4: see `configs/e2e.toml`.

    Attributes:
        max_new_tokens: Tokens to add to a prompt, at most. The LoRA recipe: 64.
        batch_size: Prompts that are decoded together.
        num_beams: Beams of the beam search; 1 takes one token after the other.
        length_penalty: Beams compete with the sum of their log-probabilities over
            their length to this power. 0 favours short continuations; read by the
            beam search alone.
        no_repeat_ngram_size: No n-gram of this size occurs twice in a continuation,
            which ends where this leaves no token; 0 allows it.
        repetition_penalty: Above 1 makes tokens less likely that the continuation
            already has; 1 changes nothing.
        sample: Draw tokens at random in place of the likeliest.
        temperature: The logits are divided by it before a draw.
        top_k: Draw from this many likeliest tokens; 0 is all.
        top_p: Draw from the fewest likeliest tokens of this total probability.
        seed: Seed of the draws. A prompt's depend on it and on the prompt's place.
    """

    max_new_tokens: int = 64
    batch_size: int = 32
    num_beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def _check_values(self) -> None:
        _check_positive(self, "max_new_tokens", "batch_size", "num_beams")
        _check_positive(self, "repetition_penalty", "temperature")
        _check_not_negative(self, "no_repeat_ngram_size", "top_k", "seed")
        _check(self, "length_penalty", math.isfinite(self.length_penalty), "finite")
        _check(self, "top_p", 0 < self.top_p <= 1, "in (0, 1]")
        draws = self.sample and self.num_beams > 1
        _check(self, "num_beams", not draws, "1 where `sample` is true")


@dataclass(frozen=True)
class StudyConfig(_Section):
    """The paper's protocol as one job; the defaults are those of appendix A.2.

    Every pair of sparsity and seed is pre-trained once. Fine-tuning searches the grid
    of batch sizes and learning rates by the validation score, BLEU or, for the
    Curation Corpus, perplexity; the best one is decoded and scored on the test split.

    Attributes:
        task: The fine-tuning task.
        sparsities: Sparsities of pre-training.
        seeds: Each is the seed of masks, initial weights and data order at once.
        batch_sizes: Batch sizes of the grid.
        learning_rates: Learning rates of the grid.
        search_seeds: How many of the seeds search the grid, each for itself; the
            others take what the first of them found. 0 is all.
        sparse_finetuning: Also fine-tune with the masks kept, at each sparsity
            above 0, with a search of its own.
        corpus: Files in the data folder to pre-train on, without `.gz`.
        task_text: Also pre-train on the targets of the task's training split.
        train_inputs: Inputs of the training split that are used, evenly spread over
            it; 0 is all.
        validation_inputs: The same of the validation split.
        search_beams: Beams of the decoding that the search is scored by.
    """

    task: str = "e2e"
    sparsities: tuple[float, ...] = (0.0, 0.5, 0.75)
    seeds: tuple[int, ...] = (0, 1, 2)
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    learning_rates: tuple[float, ...] = (1e-4, 5e-5, 2.5e-5)
    search_seeds: int = 0
    sparse_finetuning: bool = True
    corpus: tuple[str, ...] = ("wikitext2/train.txt",)
    task_text: bool = True
    train_inputs: int = 0
    validation_inputs: int = 0
    search_beams: int = 1

    def _check_values(self) -> None:
        names = ("sparsities", "seeds", "batch_sizes", "learning_rates")
        for name in names:
            values = getattr(self, name)
            different = len(set(values)) == len(values) > 0
            _check(self, name, different, "one or more values, each once")
        for sparsity in self.sparsities:
            check_sparsity(sparsity)
        _check(self, "seeds", min(self.seeds) >= 0, "at least 0")
        for name in names[2:]:
            _check(self, name, min(getattr(self, name)) > 0, "positive")
        _check_not_negative(self, "search_seeds", "train_inputs", "validation_inputs")
        _check_positive(self, "search_beams")
        has_text = bool(self.corpus) or self.task_text
        _check(self, "corpus", has_text, "a file or more where `task_text` is false")


@dataclass(frozen=True)
class Config:
    """All settings of an experiment: what a config file and a run hold.

    Attributes:
        model: The `[model]` table.
        sparsity: The `[sparsity]` table.
        train: The `[train]` table.
        finetune: The `[finetune]` table.
        decode: The `[decode]` table.
        study: The `[study]` table; only `spdf-keras study` reads it.
    """

    model: GPTConfig = field(default_factory=GPTConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    study: StudyConfig = field(default_factory=StudyConfig)


@dataclass(frozen=True)
class Preset:
    """A named model and its pre-training.

    Attributes:
        model: Its sizes.
        train: Its pre-training settings.
    """

    model: GPTConfig
    train: TrainConfig


PRESETS: dict[str, Preset] = {
    # Laptops and tests: about 1M and 10M parameters. The warm-up is shorter
    # than the paper's share of 15 %, for runs that stop early.
    "gpt_nano": Preset(
        GPTConfig(4, 4, 128, vocabulary_size=2048, max_sequence_length=256),
        TrainConfig(batch_size=16, warmup_tokens=400_000, learning_rate=2e-3),
    ),
    "gpt_mini": Preset(
        GPTConfig(6, 5, 320, vocabulary_size=8192, max_sequence_length=512),
        TrainConfig(batch_size=32, warmup_tokens=8_000_000, learning_rate=1e-3),
    ),
    # Table 1.
    "gpt2_small": Preset(GPTConfig(12, 12, 768), TrainConfig(batch_size=256)),
    "gpt3_xl": Preset(
        GPTConfig(24, 16, 2048),
        TrainConfig(batch_size=512, learning_rate=2e-4, tokens=26_000_000_000),
    ),
}


def get_preset(name: str) -> Preset:
    """Returns the preset called `name`, or raises `InputError` with the names."""
    if not isinstance(name, str) or name not in PRESETS:
        known = ", ".join(PRESETS)
        raise InputError(f"Unknown preset '{name}'. Known: {known}.")
    return PRESETS[name]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file, and overrides on top of it.

    `[model]` may name a `preset`; sizes beside it change it, and the preset's
    pre-training settings are the defaults of `[train]`.

    Args:
        path: The file.
        overrides: Lines such as `train.learning_rate=3e-4`.

    Raises:
        InputError: If the file is missing or not TOML, or a setting is unknown,
            of a wrong type or out of range.
    """
    return config_from_tables(read_tables(path), overrides)


def read_tables(path: str | Path) -> dict[str, Any]:
    """Reads the tables of a config file, whose settings are not checked yet.

    Raises:
        InputError: If the file is missing or not TOML.
    """
    try:
        return load_toml(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        message = f"Cannot read the config file '{path}': {error.strerror}."
        raise InputError(message) from error
    except ValueError as error:
        message = f"The config file '{path}' is not TOML: {error}."
        raise InputError(message) from error


def config_from_tables(
    tables: dict[str, Any], overrides: Sequence[str] = (), base: Config | None = None
) -> Config:
    """Builds a `Config` from parsed TOML tables and override lines.

    Args:
        tables: `{section: {setting: value}}`.
        overrides: Lines such as `train.learning_rate=3e-4`, which win.
        base: Where settings that are not given come from; the defaults if None.

    Raises:
        InputError: As `load_config`.
    """
    base = base or Config()
    sections = {f.name: getattr(base, f.name) for f in dataclasses.fields(Config)}
    given: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        if name not in sections or not isinstance(table, dict):
            raise _unknown(name, sections)
        given[name] = dict(table)
    for line in overrides:
        section, setting, value = parse_override(line)
        given.setdefault(section, {})[setting] = value
    preset_name = given.get("model", {}).pop("preset", None)
    if preset_name is not None:
        preset = get_preset(preset_name)
        sections["model"], sections["train"] = preset.model, preset.train
    for name, table in given.items():
        sections[name] = _replace(name, sections[name], table)
    return Config(**sections)


def to_toml(config: Config) -> str:
    """Writes every setting as TOML that `load_config` reads back.

    `[study]` is left out where it says nothing, as in every run.
    """
    lines = []
    for name, section in dataclasses.asdict(config).items():
        if name == "study" and config.study == StudyConfig():
            continue
        lines.append(f"[{name}]")
        # JSON's strings, numbers and booleans are TOML's too.
        lines += [f"{key} = {json.dumps(value)}" for key, value in section.items()]
        lines.append("")
    return "\n".join(lines)


def _replace(name: str, section: Any, table: dict[str, Any]) -> Any:
    types = {f.name: f.type for f in dataclasses.fields(section)}
    values = {}
    for key, value in table.items():
        if key not in types:
            raise _unknown(f"{name}.{key}", types)
        values[key] = as_type(f"{name}.{key}", types[key], value)
    if "hidden_dim" in values and "intermediate_dim" not in values:
        values["intermediate_dim"] = 0  # follows the new width, not the old one
    if "warmup_tokens" in values and "warmup_fraction" not in values:
        values["warmup_fraction"] = 1.0  # what is asked for is done
    return dataclasses.replace(section, **values)


def parse_override(line: str) -> tuple[str, str, Any]:
    """Section, setting and value of a line such as `train.learning_rate=3e-4`.

    Raises:
        InputError: If it looks otherwise, or there is no such setting.
    """
    key, equals, value = line.partition("=")
    section, dot, setting = key.strip().partition(".")
    if not equals or not dot:
        raise InputError(
            "An override must look like `train.learning_rate=3e-4`. "
            f"Received: '{line}'."
        )
    sections = [f.name for f in dataclasses.fields(Config)]
    if section not in sections:
        raise _unknown(section, sections)
    default: Any = getattr(Config(), section)
    known = [f.name for f in dataclasses.fields(default)]
    if setting not in known and (section, setting) != ("model", "preset"):
        raise _unknown(f"{section}.{setting}", known)
    try:
        parsed = load_toml(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word, as the shell takes quotes away
    except ValueError as error:
        raise InputError(f"`--set {key}` cannot be used: {error}.") from error
    return section, setting, parsed


def _unknown(name: str, known: Any) -> InputError:
    return InputError(f"Unknown setting `{name}`. Known here: {', '.join(known)}.")
