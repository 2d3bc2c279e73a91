"""Named models with their pre-training: two for laptops, two of the paper's Table 1."""

from dataclasses import dataclass

from spdf_keras.config.settings import GPTConfig, TrainConfig
from spdf_keras.errors import InputError


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
    # These two, of about 1M and 10M parameters, are for laptops and tests. Their
    # warm-up is shorter than the paper's share of 15 %, for runs that stop early.
    "gpt_nano": Preset(
        GPTConfig(4, 4, 128, vocabulary_size=2048, max_sequence_length=256),
        TrainConfig(batch_size=16, warmup_tokens=400_000, learning_rate=2e-3),
    ),
    "gpt_mini": Preset(
        GPTConfig(6, 5, 320, vocabulary_size=8192, max_sequence_length=512),
        TrainConfig(batch_size=32, warmup_tokens=8_000_000, learning_rate=1e-3),
    ),
    # These two are the models of Table 1.
    "gpt2_small": Preset(GPTConfig(12, 12, 768), TrainConfig(batch_size=256)),
    "gpt3_xl": Preset(
        GPTConfig(24, 16, 2048),
        TrainConfig(batch_size=512, learning_rate=2e-4, tokens=26_000_000_000),
    ),
}
"""The presets by name, which `build_gpt` and `[model] preset` take."""


def get_preset(name: str) -> Preset:
    """Returns the preset called `name`, or raises `InputError` with the names."""
    if not isinstance(name, str) or name not in PRESETS:
        known = ", ".join(PRESETS)
        raise InputError(f"Unknown preset '{name}'. Known: {known}.")
    return PRESETS[name]
