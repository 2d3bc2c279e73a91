"""Settings, presets and config files.

from spdf_keras.config import GPTConfig, load_config

config = load_config("configs/gpt2_small_s75.toml", ["train.seed=1"])
"""

from spdf_keras.config.checks import check_seed, check_sparsity
from spdf_keras.config.presets import PRESETS, Preset, get_preset
from spdf_keras.config.settings import (
    COMPUTES,
    KERNELS,
    PRECISIONS,
    STRATEGIES,
    Config,
    DecodeConfig,
    FinetuneConfig,
    GPTConfig,
    LoRAConfig,
    SparsityConfig,
    StepConfig,
    StudyConfig,
    TrainConfig,
)
from spdf_keras.config.toml import (
    config_from_tables,
    load_config,
    parse_override,
    read_tables,
    to_toml,
)

__all__ = [
    "COMPUTES",
    "KERNELS",
    "PRECISIONS",
    "PRESETS",
    "STRATEGIES",
    "Config",
    "DecodeConfig",
    "FinetuneConfig",
    "GPTConfig",
    "LoRAConfig",
    "Preset",
    "SparsityConfig",
    "StepConfig",
    "StudyConfig",
    "TrainConfig",
    "check_seed",
    "check_sparsity",
    "config_from_tables",
    "get_preset",
    "load_config",
    "parse_override",
    "read_tables",
    "to_toml",
]
