"""Checkpoints: weights, masks and optimizer state of one step, in one folder.

Files are safetensors, readable without TensorFlow and without running code.
Masks take one bit per weight, and of masked weights only the kept ones have moments
in the file. A checkpoint gets its name only when it is complete and on the disk, and
older ones are removed only after that. A removal removes the files that were written
into the checkpoint, and no other.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from spdf_keras.errors import InputError, TrainingError
from spdf_keras.files import UNFINISHED, remove_files, sync_folder
from spdf_keras.sparsity.masks import pack_mask

_NAME = re.compile(r"step-(\d{8})")
_UNFINISHED = re.compile(rf"{re.escape(UNFINISHED)}-\d{{8}}")
_STATE = "state.json"
_PARTS = ("weights", "masks", "optimizer")
_FILES = (*(f"{part}.safetensors" for part in _PARTS), _STATE)
# The library safetensors names its temporary files so.
_TEMPORARY = re.compile(r"\.tmp\w{6}")
Arrays = dict[str, NDArray[Any]]


class DamagedError(InputError):
    """The checkpoint is corrupt; an earlier one may be intact."""


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(p for p in found if any((p / name).exists() for name in _FILES))


def remove_checkpoint(checkpoint: Path) -> None:
    """Removes the files of a checkpoint, and its folder if nothing else is in it.

    The state file is removed last, so that a killed removal still leaves a folder that
    is recognised as a checkpoint.
    """
    names = os.listdir(checkpoint) if checkpoint.is_dir() else []
    remove_files(checkpoint, [*filter(_TEMPORARY.fullmatch, names), *_FILES])


def checkpoint_step(checkpoint: Path) -> int:
    """Returns the step after which a checkpoint was written, from its name."""
    match = _NAME.fullmatch(checkpoint.name)
    if not match:
        raise InputError(f"'{checkpoint}' is not the folder of a checkpoint.")
    return int(match[1])


def save_checkpoint(
    model: Any,
    folder: Path,
    step: int,
    keep: int = 2,
    validation_loss: float | None = None,
    progress: dict[str, Any] | None = None,
) -> Path:
    """Writes the model and its optimizer, then removes the oldest checkpoints.

    Args:
        model: A compiled GPT.
        folder: The folder of all checkpoints.
        step: The last completed step.
        keep: Number of the newest checkpoints to keep. The one of the lowest
            validation loss stays too.
        validation_loss: The loss after that step; None if it was not measured.
        progress: Further state that the training needs to go on; see
            `read_progress`.

    Returns:
        The folder of the checkpoint.

    Raises:
        TrainingError: If it cannot be written; older checkpoints stay as they are.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    final = folder / f"step-{step:08d}"
    unfinished = folder / f"{UNFINISHED}-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):  # left by a killed process
            remove_checkpoint(path)
    unfinished.mkdir(exist_ok=True)
    try:
        for name, arrays in _contents(model):
            if arrays:
                save_file(arrays, unfinished / f"{name}.safetensors")
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": _checksum(path)}
            for path in sorted(unfinished.glob("*.safetensors"))
        }
        scaling = getattr(model.optimizer, "scaling_state", {})
        state = {
            "format": 2,
            "step": step,
            "sparsity": model.sparsity,
            "validation_loss": validation_loss,
            "loss_scaling": {name: float(v.numpy()) for name, v in scaling.items()},
            "mask_updates": _update_state(model),
            "latent": getattr(model, "has_latent_weights", False),
            "progress": progress or {},
            "files": files,
        }
        (unfinished / _STATE).write_text(json.dumps(state, indent=2) + "\n")
        # safetensors lets nobody else read its files, whatever the umask says.
        mode = (unfinished / _STATE).stat().st_mode & 0o777
        for name in files:
            (unfinished / name).chmod(mode)
        sync_folder(unfinished)
        _replace_folder(unfinished, final)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"The checkpoint of step {step} cannot be written to '{folder}': {error}. "
            "Those before it are kept: make room, and start again to go on from there."
        ) from error
    finally:
        remove_checkpoint(unfinished)
    best = best_checkpoint(folder)
    for old in list_checkpoints(folder)[:-keep]:
        if old != best:
            remove_checkpoint(old)
    return final


def _replace_folder(new: Path, final: Path) -> None:
    """Gives a checkpoint its name, in place of a damaged one of that name."""
    remove_checkpoint(final)
    if not final.exists():
        os.rename(new, final)
        return
    # The folder holds a user's files and stays. The state file comes last, since the
    # other files count only with it.
    for name in _FILES:
        if (new / name).exists():
            os.replace(new / name, final / name)


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """Returns the `progress` of a checkpoint; empty in earlier formats."""
    return dict(checked_state(checkpoint, sums=False).get("progress", {}))


def read_checksums(checkpoint: Path) -> dict[str, str]:
    """Returns the recorded SHA-256 of each file of a checkpoint, by file name."""
    files = checked_state(checkpoint, sums=False)["files"]
    return {name: str(about["sha256"]) for name, about in files.items()}


def best_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint of the lowest validation loss, the older of equals.

    It is None if no loss was measured at the step of any checkpoint.
    """
    best, lowest = None, float("inf")
    for path in list_checkpoints(folder):
        try:
            loss = json.loads((path / _STATE).read_text())["validation_loss"]
            is_lower = loss is not None and loss < lowest
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged, or of an earlier format
        if is_lower:
            best, lowest = path, loss
    return best


def _contents(model: Any) -> Iterator[tuple[str, Arrays]]:
    weights, masks = model.named_weights(), model.named_masks()
    latent = getattr(model, "has_latent_weights", False)
    yield "weights", {path: weight.numpy() for path, weight in weights.items()}
    yield "masks", {path: pack_mask(mask.numpy()) for path, mask in masks.items()}
    moments = {}
    if getattr(model.optimizer, "has_slots", False):
        for path, weight in trained_weights(model, weights).items():
            slots = model.optimizer.slots(weight)
            for name, variable in zip("mv", slots, strict=True):
                moment = variable.numpy()
                if not latent and path in masks and moment.shape == weight.shape:
                    moment = moment[masks[path].numpy()]
                moments[f"{name}/{path}"] = moment
            cohort = model.optimizer.cohort(weight)
            if cohort is not None:
                ids = cohort.numpy()
                dense = ids.shape == weight.shape
                moments[f"c/{path}"] = ids[masks[path].numpy()] if dense else ids
    yield "optimizer", moments


def trained_weights(model: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """Returns the weights that are not frozen."""
    trained = {id(variable) for variable in model.trainable_variables}
    return {path: weight for path, weight in weights.items() if id(weight) in trained}


def _update_state(model: Any) -> dict[str, Any]:
    """Returns how far the updates of the masks are; empty if nothing updates them."""
    if model.mask_updates is None or not hasattr(model.optimizer, "mask_state"):
        return {}
    last, count = map(int, model.optimizer.mask_state.numpy())
    starts = model.optimizer.cohort_starts.numpy()[: count + 1]
    return {"last": last, "count": count, "cohort_starts": list(map(float, starts))}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_state(checkpoint: Path, sums: bool = True) -> dict[str, Any]:
    """Reads the state of a checkpoint and verifies sizes and checksums of its files."""
    try:
        state = json.loads((checkpoint / _STATE).read_text())
        for name, expected in state["files"].items() if sums else ():
            path = checkpoint / name
            if path.stat().st_size != expected["bytes"]:
                raise ValueError(f"{name} has the wrong size")
            if _checksum(path) != expected["sha256"]:
                raise ValueError(f"{name} has the wrong checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"The checkpoint '{checkpoint}' is damaged or incomplete: {error}. "
            "Remove its folder to go on from the one before."
        ) from error
    return dict(state)


def open_checkpoint(checkpoint: Path) -> tuple[Any, Any]:
    """Opens a checkpoint's weights and masks, to read one tensor at a time.

    Args:
        checkpoint: A folder that `save_checkpoint` wrote.

    Returns:
        Two readers with `keys()`, `get_slice(path).get_shape()` and
        `get_tensor(path)`. Masks come as `pack_mask` packs them; their reader is None
        for a dense run.

    Raises:
        DamagedError: If a file is missing or damaged.
    """
    from safetensors import safe_open

    files = checked_state(checkpoint)["files"]
    weights, masks = (
        safe_open(checkpoint / file, "np") if file in files else None
        for file in ("weights.safetensors", "masks.safetensors")
    )
    return weights, masks
