"""`adapter_config.json`: the settings of an adapter of PEFT."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.parsing import load_json
from spdf_keras.values import as_type

FILE = "adapter_config.json"
# Settings of PEFT that change what an adapter computes, and the values that an adapter
# here can have: the first is that of a plain one.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "megatron_config": (None,),
}
# These ways to begin change the weights of the base too.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class PeftConfig:
    """What PEFT's settings say of the modules.

    Attributes:
        rank: Rank of the modules that `ranks` does not name.
        alpha: Alpha of the modules that `alphas` does not name.
        dropout: Dropout of training.
        modules: Names of the modules that have an adapter, for `to_json`.
        ranks: Other ranks, by the end of a module's name.
        alphas: Other alphas, in the same way.
        roots: Whether alpha is over the root of the rank, and not over the rank.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    modules: tuple[str, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    roots: bool = False

    @classmethod
    def of(cls, ranks: Mapping[str, int], scale: float, dropout: float) -> "PeftConfig":
        """Makes the settings of modules of one scale.

        Args:
            ranks: The rank of each module by its name.
            scale: Factor of the product of B and A.
            dropout: Dropout of training.

        Example:
            >>> PeftConfig.of({"attn.c_attn": 8}, 8.0, 0.1).alpha
            64.0
        """
        rank = min(ranks.values())
        others = {name: own for name, own in ranks.items() if own != rank}
        alphas = {name: scale * own for name, own in others.items()}
        return cls(rank, scale * rank, dropout, tuple(ranks), others, alphas)

    def to_json(self, base_model: str) -> dict[str, Any]:
        """Returns the content of the file.

        Args:
            base_model: Name or folder of the model that the adapter goes on.
        """
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": self.rank,
            "lora_alpha": _whole(self.alpha),
            "lora_dropout": self.dropout,
            # PEFT matches ends of names, and "c_proj" alone would match two modules.
            "target_modules": list(self.modules),
            "rank_pattern": dict(self.ranks),
            "alpha_pattern": {name: _whole(a) for name, a in self.alphas.items()},
            "fan_in_fan_out": True,
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "modules_to_save": None,
            "inference_mode": True,
        }

    @classmethod
    def read(cls, folder: Path) -> "PeftConfig":
        """Reads the file of a folder.

        Raises:
            InputError: If it is missing or no JSON, or a setting is one that no adapter
                here has.
        """
        file = folder / FILE
        fields = _read_json(folder)
        if fields.get("peft_type") != "LORA":
            raise InputError(
                f"`peft_type` of '{file}' must be LORA. Received: "
                f"{fields.get('peft_type')!r}."
            )
        for name, plain in _PLAIN.items():
            if fields.get(name, plain[0]) not in plain:
                raise InputError(
                    f"`{name}` of '{file}' must be {json.dumps(plain[0])}, as adapters "
                    f"here have nothing like it. Received: {fields[name]!r}."
                )
        start = str(fields.get("init_lora_weights", "")).lower()
        if start.startswith(_CHANGES_BASE):
            raise InputError(
                f"`init_lora_weights` of '{file}' must leave the base as it is. "
                f"Received: {start!r}. Save the adapter with PEFT's "
                "path_initial_model_for_weight_conversion."
            )
        try:
            return cls(
                as_type("r", int, fields.get("r", 8)),
                as_type("lora_alpha", float, fields.get("lora_alpha", 8)),
                as_type("lora_dropout", float, fields.get("lora_dropout") or 0.0),
                ranks=_numbers("rank_pattern", int, fields),
                alphas=_numbers("alpha_pattern", float, fields),
                roots=bool(fields.get("use_rslora", False)),
            )
        except InputError as error:
            raise InputError(f"'{file}': {error}") from error

    def scale(self, rank: int, name: str) -> float:
        """Returns the factor of the product of B and A of a module.

        Args:
            rank: Its rank, as its tensors have it.
            name: Its whole name in the model.

        Raises:
            InputError: If these settings say another rank.
        """
        said = _matched(self.ranks, name, self.rank)
        if said != rank:
            raise InputError(
                f"`r` of '{FILE}' must be the rank of the tensors. Received: {said} "
                f"for '{name}', whose tensors have {rank}."
            )
        alpha = _matched(self.alphas, name, self.alpha)
        return float(alpha / (math.sqrt(rank) if self.roots else rank))


def _read_json(folder: Path) -> dict[str, Any]:
    file = folder / FILE
    if not file.is_file():
        raise InputError(
            f"No adapter in '{folder}': there is no {FILE}. Give the folder of an "
            "adapter that PEFT, or `spdf-keras export --format peft`, has written."
        )
    try:
        fields = load_json(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{file}' is no JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise InputError(f"'{file}' must hold an object. Received: {fields!r}.")
    return fields


def _numbers(name: str, kind: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    table = fields.get(name) or {}
    if not isinstance(table, dict):
        raise InputError(f"`{name}` must be an object. Received: {table!r}.")
    for pattern in table:
        # PEFT takes them as regular expressions, which a foreign file shall not give.
        if not re.fullmatch(r"[\w.]+", pattern):
            raise InputError(
                f"`{name}` must name modules, such as attn.c_attn. Received: "
                f"'{pattern}'."
            )
    return {key: as_type(name, kind, value) for key, value in table.items()}


def _matched(patterns: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """Returns the value of the pattern that a module's name ends with."""
    found = [v for p, v in patterns.items() if f".{name}".endswith(f".{p}")]
    return found[0] if found else otherwise


def _whole(number: float) -> float | int:
    """Writes 64.0 as 64, as PEFT's own files have it."""
    return int(number) if number == int(number) else number
