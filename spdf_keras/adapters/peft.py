"""Adapters in the files of PEFT, for GPT-2 of Hugging Face, in both directions.

There query, key and value are one matrix, `c_attn`, side by side. Their adapters of
rank r thus become one whose rank is the sum of theirs: its A has theirs below each
other, and its B has theirs in a diagonal of blocks. The way back cuts B into thirds,
which share A.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.adapters.adapter import Adapter
from spdf_keras.adapters.peft_config import PeftConfig
from spdf_keras.config import KERNELS, LoRAConfig
from spdf_keras.errors import InputError
from spdf_keras.model.paths import adapter_path, block_name

FILE = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
# The modules of a block in Hugging Face's GPT-2, and the kernels that they hold.
MODULES = {
    "attn.c_attn": ("query", "key", "value"),
    "attn.c_proj": ("attention_output",),
    "mlp.c_fc": ("intermediate",),
    "mlp.c_proj": ("output",),
}
_PREFIX = "base_model.model.transformer."
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?:transformer\.)?h\.(\d+)\."
    rf"({'|'.join(map(re.escape, MODULES))})\.lora_(A|B)(?:\.default)?\.weight"
)
# Under this name the file of an export has the settings that the adapter had here.
_OURS = "spdf_keras.lora"

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Module:
    """The adapter of one module: the update of its weight is `(scale * B @ A).T`.

    Attributes:
        a: `(rank, in_features)`.
        b: `(out_features, rank)`.
        scale: See above.
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    scale: float


def to_peft_files(
    adapter: Adapter, base_model: str
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str], dict[str, Any]]:
    """Returns what the two files of PEFT hold.

    Args:
        adapter: The adapter of a model.
        base_model: Name or folder of the model that PEFT is to load it on.

    Returns:
        The tensors of `adapter_model.safetensors`, the metadata of that file, and the
        content of `adapter_config.json`.
    """
    lora, weights = adapter.lora, adapter.weights
    tensors: dict[str, NDArray[np.float32]] = {}
    index = 0
    while any(path.startswith(f"{block_name(index)}/") for path in weights):
        for module, kernels in _adapted(lora.targets):
            downs, ups = (
                {k: weights[adapter_path(block_name(index), k, part)] for k in kernels}
                for part in ("down", "up")
            )
            key = f"{_PREFIX}h.{index}.{module}"
            a = np.concatenate([down.T for down in downs.values()])
            tensors[f"{key}.lora_A.weight"] = np.ascontiguousarray(a)
            tensors[f"{key}.lora_B.weight"] = _diagonal(ups, MODULES[module])
        index += 1
    ranks = {m: lora.rank * len(kernels) for m, kernels in _adapted(lora.targets)}
    about = {"format": "pt", _OURS: json.dumps(_settings(lora))}
    config = PeftConfig.of(ranks, lora.scale, lora.dropout)
    return tensors, about, config.to_json(base_model)


def _settings(lora: LoRAConfig) -> dict[str, Any]:
    return {"rank": lora.rank, "alpha": lora.alpha, "targets": list(lora.targets)}


def _adapted(targets: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Yields the modules that have an adapter, and their kernels that have one."""
    for module, kernels in MODULES.items():
        own = [kernel for kernel in kernels if kernel in targets]
        if own:
            yield module, own


def _diagonal(
    ups: Mapping[str, NDArray[np.float32]], kernels: tuple[str, ...]
) -> NDArray[np.float32]:
    """Returns B of a module from `(rank, out_features)` of its kernels."""
    rank, width = next(iter(ups.values())).shape
    b = np.zeros((len(kernels) * width, len(ups) * rank), np.float32)
    for column, (name, up) in enumerate(ups.items()):
        row = kernels.index(name) * width
        b[row : row + width, column * rank : (column + 1) * rank] = up.T
    return b


def load_adapter(folder: str | Path) -> Adapter:
    """Reads the adapter in a folder of PEFT, of GPT-2 with LoRA.

    An adapter that was exported from here comes back as it was. Any other one on
    `c_attn` becomes one on query, key and value each, which share their first matrix:
    the function is the same, and further training may set them apart.

    Args:
        folder: It has `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        The adapter; `adapt` puts it beside the weights of a model.

    Raises:
        InputError: If a file is missing, damaged or a pickle, or the adapter is of a
            kind that no model here has.
    """
    lora, weights = _read_files(Path(folder))
    return Adapter(lora, weights, f"the adapter in '{folder}'")


def _read_files(folder: Path) -> tuple[LoRAConfig, Weights]:
    config = PeftConfig.read(folder)
    tensors, about = _read_tensors(folder)
    modules = _modules(folder, tensors, config)
    lora = _recorded(about, config)
    if lora is not None:
        weights = _split_blocks(lora, modules)
        if weights is not None:
            return lora, weights
    return _split_thirds(config, modules)


def _read_tensors(
    folder: Path,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    file = folder / FILE
    if not file.is_file():
        if (folder / PICKLE).is_file():
            raise InputError(
                f"'{folder / PICKLE}' is a pickle, which may run code when it is read. "
                "Save the adapter with PEFT's safe_serialization=True, which writes "
                f"{FILE}."
            )
        raise InputError(
            f"No adapter in '{folder}': there is no {FILE}. Give the folder of an "
            f"adapter that PEFT, or `spdf-keras export --format peft`, has written."
        )
    try:
        with safe_open(file, "np") as reader:
            names = list(reader.keys())
            tensors = {name: reader.get_tensor(name) for name in names}
            about = dict(reader.metadata() or {})
    except (SafetensorError, OSError, TypeError) as error:
        raise InputError(
            f"'{file}' is no complete safetensors file: {error}. Fetch or save it "
            "again."
        ) from error
    for name, tensor in tensors.items():
        tensors[name] = np.asarray(tensor, np.float32)
        if not np.isfinite(tensors[name]).all():
            raise InputError(
                f"The weights of an adapter must be finite. Received: '{name}' of "
                f"'{file}' with NaN or infinity."
            )
    return tensors, about


def _modules(
    folder: Path, tensors: Mapping[str, NDArray[np.float32]], config: PeftConfig
) -> dict[tuple[int, str], _Module]:
    """Returns the adapters of all modules by the number of the block and their name."""
    pairs: dict[tuple[int, str], dict[str, NDArray[np.float32]]] = {}
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise InputError(
                f"The adapter in '{folder}' must be one of GPT-2's "
                f"{', '.join(MODULES)}. Received: the tensor '{name}'."
            )
        pairs.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    modules = {}
    for (index, module), pair in sorted(pairs.items()):
        name, parts = f"transformer.h.{index}.{module}", len(MODULES[module])
        shapes = {f"lora_{key}": array.shape for key, array in pair.items()}
        match shapes:
            case {"lora_A": (rank, _), "lora_B": (out, columns)} if (
                rank == columns and rank and out % parts == 0
            ):
                scale = config.scale(rank, name)
                modules[index, module] = _Module(pair["A"], pair["B"], scale)
            case _:
                raise InputError(
                    f"The adapter in '{folder}' must have lora_A (rank, in) and lora_B "
                    f"(out, rank) of every module. Received: {shapes} for '{name}'."
                )
    if not modules:
        raise InputError(f"The adapter in '{folder}' has no tensors.")
    return modules


def _recorded(about: Mapping[str, str], config: PeftConfig) -> LoRAConfig | None:
    """Returns the settings that an export from here has recorded, if any."""
    try:
        fields = json.loads(about[_OURS])
        return LoRAConfig(dropout=config.dropout, **fields)
    except (KeyError, ValueError, TypeError, InputError):
        return None


def _split_blocks(
    lora: LoRAConfig, modules: Mapping[tuple[int, str], _Module]
) -> Weights | None:
    """Undoes `to_peft_files`; None if the tensors are no longer of that form."""
    weights: Weights = {}
    adapted = dict(_adapted(lora.targets))
    for (index, module), own in modules.items():
        kernels = adapted.get(module, [])
        if len(own.a) != lora.rank * len(kernels) or own.scale != lora.scale:
            return None
        ups: dict[str, NDArray[np.float32]] = {}
        rows = np.split(own.b, len(MODULES[module]))
        thirds = dict(zip(MODULES[module], rows, strict=True))
        for number, kernel in enumerate(kernels):
            ranks = slice(number * lora.rank, (number + 1) * lora.rank)
            ups[kernel] = np.ascontiguousarray(thirds[kernel][:, ranks].T)
            for part, array in (("down", own.a[ranks].T), ("up", ups[kernel])):
                path = adapter_path(block_name(index), kernel, part)
                weights[path] = np.ascontiguousarray(array)
        if not np.array_equal(_diagonal(ups, MODULES[module]), own.b):
            return None
    return weights


def _split_thirds(
    config: PeftConfig, modules: Mapping[tuple[int, str], _Module]
) -> tuple[LoRAConfig, Weights]:
    """Gives every kernel of a module its rows of B, and the module's A.

    All adapters here have one rank and one scale: smaller ones are filled up with
    zeros, and another scale is multiplied into B.
    """
    rank = max(len(module.a) for module in modules.values())
    scale = next(iter(modules.values())).scale
    names = {module for _, module in modules}
    targets = tuple(k for k in KERNELS for m in names if k in MODULES[m])
    weights: Weights = {}
    for (index, module), own in modules.items():
        more = rank - len(own.a)
        down = np.pad(own.a.T, ((0, 0), (0, more)))
        thirds = np.split(own.b, len(MODULES[module]))
        for kernel, third in zip(MODULES[module], thirds, strict=True):
            up = np.pad(third.T, ((0, more), (0, 0)))
            if own.scale != scale:
                up = (up * np.float64(own.scale / scale)).astype(np.float32)
            weights[adapter_path(block_name(index), kernel, "down")] = down.copy()
            weights[adapter_path(block_name(index), kernel, "up")] = up
    return LoRAConfig(rank, scale * rank, config.dropout, targets), weights
