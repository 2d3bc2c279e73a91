"""Config files and overrides: TOML in, checked settings out, and back.

Config files have one table per dataclass of `settings.py`. Every name and type is
checked, so a misspelt setting is refused.
"""

import dataclasses
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spdf_keras.config.presets import get_preset
from spdf_keras.config.settings import Config, StudyConfig
from spdf_keras.errors import InputError
from spdf_keras.parsing import load_toml
from spdf_keras.values import as_type


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file and applies overrides.

    `[model]` may name a `preset`. Further sizes there change the preset's, and the
    preset's pre-training settings are the defaults of `[train]`.

    Args:
        path: The file.
        overrides: Lines such as `train.learning_rate=3e-4`.

    Raises:
        InputError: If the file is missing or not TOML, or a setting is unknown,
            of a wrong type or out of range.
    """
    return config_from_tables(read_tables(path), overrides)


def read_tables(path: str | Path) -> dict[str, Any]:
    """Reads the tables of a config file without checking the settings.

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
        overrides: Lines such as `train.learning_rate=3e-4`, which have precedence.
        base: Gives the settings that are in neither; the defaults if None.

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

    `[study]` is left out if it has only defaults, as in every run.
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
        values["intermediate_dim"] = 0  # it follows the new width
    if "warmup_tokens" in values and "warmup_fraction" not in values:
        values["warmup_fraction"] = 1.0  # an explicit warm-up is not capped
    return dataclasses.replace(section, **values)


def parse_override(line: str) -> tuple[str, str, Any]:
    """Parses a line such as `train.learning_rate=3e-4`.

    Returns:
        Section, setting and value.

    Raises:
        InputError: If it has another form, or there is no such setting.
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
        parsed = value.strip()  # a bare word, since the shell removes quotes
    except ValueError as error:
        raise InputError(f"`--set {key}` cannot be used: {error}.") from error
    return section, setting, parsed


def _unknown(name: str, known: Any) -> InputError:
    return InputError(f"Unknown setting `{name}`. Known here: {', '.join(known)}.")
