"""`masks.safetensors`: the masks beside the weights, one bit per weight.

The zeros of the weights are not the masks, as a kept weight may be 0. Loaders of this
layout pass over the file, since its name does not begin with `model`.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import GPTConfig, SparsityConfig, config_from_tables
from spdf_keras.errors import InputError
from spdf_keras.interchange.huggingface.names import PREFIX, tensors
from spdf_keras.parsing import load_json
from spdf_keras.safetensors_file import safetensors_writer
from spdf_keras.sparsity.masks import pack_mask, unpack_mask

FILE = "masks.safetensors"
_FORMAT = "spdf_keras masks 1"
_LAYOUT = (
    "A tensor has the name of its weight, and one bit per entry of that weight, in the "
    "order of rows and the highest bit of a byte first; 1 is kept, 0 is pruned. The "
    "weight is 0 where its mask is 0, and may be 0 elsewhere."
)
_RULE = (
    "Each of query, key, value, attention output, intermediate and output kernel has "
    "its own mask. With the method `static` and the distribution `uniform` it has "
    "round(sparsity * size) zeros at random places, which depend on the seed and the "
    "kernel's path alone (spdf_keras.sparsity.masks.random_mask); other settings move "
    "the masks or share the zeros otherwise."
)

Mask = NDArray[np.bool_]


def write_masks(
    file: Path,
    sizes: GPTConfig,
    mask_of: Callable[[str], Mask | None],
    sparsity: SparsityConfig,
) -> None:
    """Writes the masks of a sparse model.

    Args:
        file: The file.
        sizes: Sizes of the model.
        mask_of: Returns the mask of a kernel by its path.
        sparsity: The settings that the masks were drawn by.
    """
    packed, zeros, size = {}, 0, 0
    for tensor in tensors(sizes):
        parts = [mask_of(path) for path in tensor.paths] if tensor.is_kernel else []
        masks = [part for part in parts if part is not None]
        if not masks:
            continue
        mask = tensor.join(masks)
        packed[PREFIX + tensor.name] = pack_mask(mask)
        size += mask.size
        zeros += mask.size - int(np.count_nonzero(mask))
    about = {
        "format": _FORMAT,
        "layout": _LAYOUT,
        "rule": _RULE,
        "settings": json.dumps(dataclasses.asdict(sparsity)),
        "zeros": str(zeros),
        "size": str(size),
    }
    with safetensors_writer(file, len(packed), about) as writer:
        for name, bits in packed.items():
            writer.add(name, bits)


def read_masks(
    folder: Path, sizes: GPTConfig
) -> tuple[SparsityConfig, dict[str, Mask]]:
    """Reads the masks of a checkpoint.

    Args:
        folder: The folder of the checkpoint.
        sizes: Sizes of its model.

    Returns:
        The settings of the masks, and each mask by the path of its kernel; no sparsity
        and no masks if the folder has no file of them.

    Raises:
        InputError: If the file is damaged, or is none that `write_masks` wrote for a
            model of these sizes.
    """
    file = folder / FILE
    if not file.is_file():
        return SparsityConfig(), {}
    about, packed = _opened(file)
    masks: dict[str, Mask] = {}
    try:
        settings = load_json(about["settings"])
        sparsity = config_from_tables({"sparsity": settings}).sparsity
        for tensor in tensors(sizes):
            if tensor.is_kernel:
                bits = packed.pop(PREFIX + tensor.name)
                masks |= tensor.split(unpack_mask(bits, tensor.shape))
        zeros = sum(mask.size - np.count_nonzero(mask) for mask in masks.values())
        if packed or zeros != int(about["zeros"]):
            raise ValueError("other tensors or counts than its own header says")
    except (KeyError, ValueError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"The masks '{file}' do not fit the model: {reason}. Export the run again, "
            "or remove the file to read the weights as those of a dense model."
        ) from error
    return sparsity, masks


def _opened(file: Path) -> tuple[dict[str, str], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as reader:
            about = reader.metadata() or {}
            if about.get("format") == _FORMAT:
                return about, {key: reader.get_tensor(key) for key in reader.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"'{file}' is no complete safetensors file: {error}. Fetch it again."
        ) from error
    raise InputError(
        f"'{file}' must have the format '{_FORMAT}'. Received: "
        f"{about.get('format', 'none')}. Remove the file to read the weights as those "
        "of a dense model."
    )
