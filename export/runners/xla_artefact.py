"""The files of an exported XLA artefact, checked when they are read.

`run_xla.py` uses this file, which must lie beside it. It needs JAX and NumPy, nothing
else.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax import export

FORMAT = "spdf-xla 1"

_DTYPES = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
_DTYPES |= {"U8": np.uint8, "I32": np.int32, "BOOL": np.bool_}

# What `artefact.json` must have; `...` stands for any name.
_ARGUMENT = {"name": str, "role": str, "shape": [int], "dtype": str}
_PROGRAM = {"sha256": str, "arguments": [_ARGUMENT], "results": [_ARGUMENT]}
_TIMED = {**_PROGRAM, "flops": float}
_ABOUT = {
    "format": str,
    "model": {"vocabulary_size": int},
    "compute_dtype": str,
    "programs": {...: _TIMED},
    "unpack_programs": {...: _PROGRAM},
    "unpack": {...: str},
    "tolerance": float,
    "check_prompt": int,
    "tensors": {...: str},
}
# Roles of arguments, and results that a runner uses.
_ROLES = {"weight", "mask", "bits", "values", "moment", "step", "cache", "input"}
_SKIPPING_ROLES = _ROLES | {"packed", "structure"}
_RESULTS = {
    **dict.fromkeys(("forward", "prefill", "decode"), {"logits"}),
    "train_step": {"loss", "gradient_norm"},
}
_SKIPPING = {"interface": int, "kernels": {...: [int]}, "programs": {...: _PROGRAM}}


class RunError(ValueError):
    """The artefact, the prompt or the library cannot be used; one sentence says why."""


class Artefact:
    """The folder that `to_xla` wrote.

    Args:
        folder: The folder.
        verify: Compare the checksums of all data that is read.

    Attributes:
        about: Content of `artefact.json`.

    Raises:
        RunError: If the folder is no such artefact.
    """

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        self._folder, self._verify = Path(folder), verify
        self.about = _read_about(self._folder)
        self._stored = self._open("weights.safetensors")

    def __str__(self) -> str:
        return f"'{self._folder}'"

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def tensor(self, name: str) -> Any:
        """Returns a tensor of the weights, mapped into memory.

        Raises:
            RunError: If there is no such tensor, or its checksum is wrong.
        """
        return self._checked(name, self._stored)

    def mask_bits(self, path: str) -> Any:
        """Returns the mask of a kernel, one bit per entry; errors as of `tensor`."""
        name = f"mask/{path}"
        return self.tensor(name if name in self else f"{path}.bits")

    def expected(self) -> dict[str, Any]:
        """Returns token ids with the results that were stored with the programs.

        Raises:
            RunError: If they are missing or damaged.
        """
        stored = self._open("check.safetensors")
        names = ("token_ids", "positions", "logits", "loss")
        return {name: self._checked(name, stored) for name in names}

    def require(self, stem: str) -> None:
        """Refuses an artefact that lacks the file of a program."""
        if not (self._folder / f"{stem}.stablehlo").is_file():
            raise RunError(f"{self} is incomplete: it has no {stem}.stablehlo.")

    def program(self, stem: str, about: dict[str, Any]) -> Any:
        """Returns a program as a function of its arguments in order.

        Args:
            stem: Name of the program's file.
            about: Its description.

        Raises:
            RunError: If the file is missing or damaged.
        """
        self.require(stem)
        blob = (self._folder / f"{stem}.stablehlo").read_bytes()
        self._compare(stem, {stem: about["sha256"]}, blob)
        return exported(stem, about, blob).call

    def _open(self, file: str) -> dict[str, np.ndarray]:
        try:
            return read_safetensors(self._folder / file)
        except FileNotFoundError as error:
            raise RunError(f"{self} is incomplete: it has no {file}.") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{self} is damaged: {error}.") from error

    def _checked(self, name: str, stored: dict[str, np.ndarray]) -> np.ndarray:
        if name not in stored:
            raise RunError(f"{self} is incomplete: it has no '{name}'.")
        view = stored[name].reshape(-1).view(np.uint8).data
        self._compare(name, self.about["tensors"], view)
        return stored[name]

    def _compare(self, name: str, checksums: dict[str, str], data: Any) -> None:
        if self._verify and hashlib.sha256(data).hexdigest() != checksums.get(name):
            raise RunError(f"{self} is damaged: '{name}' has the wrong checksum.")


def _read_about(folder: Path) -> dict[str, Any]:
    """Reads `artefact.json`, and checks that all is there that a runner uses."""
    try:
        about = json.loads((folder / "artefact.json").read_text("utf-8"))
        _match(about, {"format": str})
        if about["format"] != FORMAT:
            raise ValueError(f"it is of the format '{about['format']}'")
        _match(about, _ABOUT)
        _check_names(about["programs"], _ROLES)
        if "skipping" in about:
            _match(about["skipping"], _SKIPPING, "skipping/")
            _check_names(about["skipping"]["programs"], _SKIPPING_ROLES)
    except (OSError, ValueError) as error:
        raise RunError(f"'{folder}' is no XLA artefact: {error}.") from error
    return dict(about)


def _check_names(programs: dict[str, Any], roles: set[str]) -> None:
    for name, program in programs.items():
        if unknown := {argument["role"] for argument in program["arguments"]} - roles:
            raise ValueError(f"its program {name} has the role '{unknown.pop()}'")
        given = {result["name"] for result in program["results"]}
        if missing := _RESULTS.get(name, set()) - given:
            raise ValueError(f"its program {name} does not give '{missing.pop()}'")


def _match(value: Any, schema: Any, place: str = "") -> None:
    """Compares JSON with a schema of types."""
    if isinstance(schema, type):
        # A whole number is written without a point.
        types = (int, float) if schema is float else schema
        if not isinstance(value, types) or isinstance(value, bool):
            raise ValueError(f"its '{place.rstrip('/')}' is no {schema.__name__}")
    elif not isinstance(value, type(schema)):
        kind = type(schema).__name__
        raise ValueError(f"its '{place.rstrip('/') or 'artefact.json'}' is no {kind}")
    elif isinstance(schema, list):
        for item in value:
            _match(item, schema[0], place)
    else:
        for key, inner in schema.items():
            if key is not ... and key not in value:
                raise ValueError(f"it has no '{place}{key}'")
            for name in value if key is ... else [key]:
                _match(value[name], inner, f"{place}{name}/")


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Maps the tensors of a file into memory, without reading them.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no such file, or cut short.
    """
    if path.stat().st_size < 8:
        raise ValueError(f"{path.name} is cut short")
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int(data[:8].view("<u8")[0])
    if start > data.size:
        raise ValueError(f"{path.name} is cut short")
    tensors = {}
    try:
        header = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        for name, about in header.items():
            low, high = about["data_offsets"]
            if not 0 <= low <= high <= data.size - start:
                raise ValueError(f"{path.name} is cut short")
            raw = data[start + low : start + high]
            tensors[name] = raw.view(_DTYPES[about["dtype"]]).reshape(about["shape"])
    except (AttributeError, KeyError, TypeError, UnicodeError) as error:
        raise ValueError(f"{path.name} has no header of safetensors") from error
    return tensors


def exported(name: str, about: dict[str, Any], blob: bytes) -> Any:
    """Wraps a program in JAX's public class for StableHLO."""
    version = export.maximum_supported_calling_convention_version

    def shapes(arguments: list[dict[str, Any]]) -> tuple[Any, ...]:
        make = jax.core.ShapedArray
        return tuple(make(tuple(a["shape"]), np.dtype(a["dtype"])) for a in arguments)

    inputs, outputs = shapes(about["arguments"]), shapes(about["results"])
    fields: dict[str, Any] = {
        "fun_name": name,
        "in_tree": jax.tree.structure((inputs, {})),
        "in_avals": inputs,
        "out_tree": jax.tree.structure(outputs),
        "out_avals": outputs,
        "_has_named_shardings": True,
        "_in_named_shardings": (None,) * len(inputs),
        "_out_named_shardings": (None,) * len(outputs),
        "in_shardings_hlo": (None,) * len(inputs),
        "out_shardings_hlo": (None,) * len(outputs),
        "nr_devices": 1,
        # The program names no platform: it is compiled for the one at hand.
        "platforms": (jax.export.default_export_platform(),),
        "ordered_effects": (),
        "unordered_effects": (),
        "disabled_safety_checks": (),
        "mlir_module_serialized": blob,
        "calling_convention_version": version,
        "module_kept_var_idx": tuple(range(len(inputs))),
        "uses_global_constants": False,
        "_get_vjp": None,
    }
    # Other versions of JAX lack some of these fields.
    known = {field.name for field in dataclasses.fields(export.Exported)}
    return export.Exported(**{k: v for k, v in fields.items() if k in known})
