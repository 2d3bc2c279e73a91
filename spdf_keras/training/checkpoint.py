"""Checkpoints: weights, masks and optimizer state of one step, in one folder.

Files are safetensors, readable without TensorFlow and without running code.
Masks take one bit per weight. A checkpoint appears under its name only when it
is whole.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.errors import InputError
from spdf_keras.sparsity.masks import pack_mask, unpack_mask

_NAME = re.compile(r"step-(\d{8})")
Arrays = dict[str, NDArray[Any]]


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def checkpoint_step(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, from its name."""
    match = _NAME.fullmatch(checkpoint.name)
    if not match:
        raise InputError(f"'{checkpoint}' is not the folder of a checkpoint.")
    return int(match[1])


def save_checkpoint(model: Any, folder: Path, step: int, keep: int = 2) -> Path:
    """Writes the model and its optimizer, then removes the oldest checkpoints.

    Args:
        model: A compiled GPT.
        folder: Where checkpoints go.
        step: The step that was done last.
        keep: How many of the newest to keep.

    Returns:
        The folder of the checkpoint.
    """
    from safetensors.numpy import save_file

    weights = model.named_weights()
    contents: dict[str, Arrays] = {
        "weights": {path: weight.numpy() for path, weight in weights.items()},
        "masks": {
            path: pack_mask(mask.numpy()) for path, mask in model.named_masks().items()
        },
    }
    if getattr(model.optimizer, "has_slots", False):
        contents["optimizer"] = {
            f"{slot}/{path}": variable.numpy()
            for path, weight in weights.items()
            for slot, variable in zip("mv", model.optimizer.slots(weight), strict=True)
        }
    final = folder / f"step-{step:08d}"
    unfinished = folder / f".unfinished-{step:08d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for name, arrays in contents.items():
            if arrays:
                save_file(arrays, unfinished / f"{name}.safetensors")
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": _checksum(path)}
            for path in sorted(unfinished.iterdir())
        }
        state = {"format": 1, "step": step, "sparsity": model.sparsity, "files": files}
        (unfinished / "state.json").write_text(json.dumps(state, indent=2) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        os.rename(unfinished, final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def restore_checkpoint(model: Any, checkpoint: Path, optimizer: bool = False) -> int:
    """Loads a checkpoint into a model of the same sizes and sparsity.

    Args:
        model: The GPT to fill.
        checkpoint: A folder that `save_checkpoint` wrote.
        optimizer: Also restore the moments and the step; the model must be
            compiled with `AdamW`.

    Returns:
        The step after which it was written.

    Raises:
        InputError: If a file is missing or damaged, does not fit the model, or
            the model is sparse and the checkpoint has no masks.
    """
    files = _checked_files(checkpoint)
    weights, masks = model.named_weights(), model.named_masks()
    arrays = _load(checkpoint, "weights", files)
    bits = _load(checkpoint, "masks", files)
    if masks and not bits:
        raise InputError(
            f"The checkpoint '{checkpoint}' has no masks, but the model is sparse "
            f"(sparsity={model.sparsity}). Use a checkpoint of a sparse run, or "
            "build the model with sparsity 0."
        )
    _check_fit(checkpoint, weights, arrays)
    if set(bits) != set(masks):
        odd = sorted(set(bits) ^ set(masks))[0]
        raise InputError(
            f"The checkpoint '{checkpoint}' does not fit the model: only one of "
            f"them has a mask for '{odd}'. Use the sparsity that it was trained with."
        )
    drawn = {
        path: unpack_mask(bits[path], tuple(mask.shape)) for path, mask in masks.items()
    }
    for path, mask in drawn.items():
        if np.any(arrays[path][~mask]):
            raise InputError(
                f"The checkpoint '{checkpoint}' is damaged: '{path}' is not zero "
                "where its mask is."
            )
    moments = _load(checkpoint, "optimizer", files) if optimizer else {}
    if optimizer:
        _check_fit(checkpoint, weights, moments, ("m/", "v/"))
    # Nothing is written to the model before everything has been checked.
    for path, mask in drawn.items():
        masks[path].assign(mask)
    for path, weight in weights.items():
        weight.assign(arrays[path])
    step = checkpoint_step(checkpoint)
    if optimizer:
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(step)
        for path, weight in weights.items():
            for slot, variable in zip("mv", model.optimizer.slots(weight), strict=True):
                variable.assign(moments[f"{slot}/{path}"])
    return step


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_files(checkpoint: Path) -> dict[str, Any]:
    try:
        files = json.loads((checkpoint / "state.json").read_text())["files"]
        for name, expected in files.items():
            path = checkpoint / name
            if path.stat().st_size != expected["bytes"]:
                raise ValueError(f"{name} has the wrong size")
            if _checksum(path) != expected["sha256"]:
                raise ValueError(f"{name} has the wrong checksum")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The checkpoint '{checkpoint}' is damaged or incomplete: {error}. "
            "Remove its folder to go on from the one before."
        ) from error
    return dict(files)


def _load(checkpoint: Path, name: str, files: dict[str, Any]) -> Arrays:
    from safetensors.numpy import load_file

    file = f"{name}.safetensors"
    return dict(load_file(checkpoint / file)) if file in files else {}


def _check_fit(
    checkpoint: Path,
    weights: dict[str, Any],
    arrays: Arrays,
    prefixes: tuple[str, ...] = ("",),
) -> None:
    expected = {
        prefix + path: tuple(weight.shape)
        for prefix in prefixes
        for path, weight in weights.items()
    }
    found = {path: array.shape for path, array in arrays.items()}
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            raise InputError(
                f"The checkpoint '{checkpoint}' does not fit the model: '{path}' is "
                f"{found.get(path, 'missing')} in it and "
                f"{expected.get(path, 'unknown')} in the model."
            )
