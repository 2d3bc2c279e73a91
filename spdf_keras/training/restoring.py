"""Loading a checkpoint into a model."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.errors import InputError
from spdf_keras.sparsity.masks import spread_kept, unpack_mask
from spdf_keras.training.checkpoint import (
    Arrays,
    DamagedError,
    checked_state,
    checkpoint_step,
    trained_weights,
)

Masks = dict[str, NDArray[np.bool_]]


def restore_checkpoint(model: Any, checkpoint: Path, optimizer: bool = False) -> int:
    """Loads a checkpoint into a model of the same sizes and sparsity.

    Everything is checked before anything is written to the model.

    Args:
        model: The GPT to fill.
        checkpoint: A folder that `save_checkpoint` wrote.
        optimizer: Also restore the moments and the step; the model must be
            compiled with `AdamW`.

    Returns:
        The step after which it was written.

    Raises:
        DamagedError: If a file is missing or damaged.
        InputError: If it does not fit the model, or the model is sparse and the
            checkpoint has no masks.
    """
    state, step = checked_state(checkpoint), checkpoint_step(checkpoint)
    files, latent = state["files"], bool(state.get("latent"))
    weights = _load(checkpoint, "weights", files)
    _check_fit(checkpoint, _shapes(model.named_weights()), weights)
    masks = _read_masks(model, checkpoint, files)
    for path, mask in masks.items():
        if latent and not optimizer:
            weights[path][~mask] = 0  # what its forward pass computes with
        elif not latent and np.any(weights[path][~mask]):
            raise DamagedError(
                f"The checkpoint '{checkpoint}' is damaged: '{path}' is not zero "
                "where its mask is."
            )
    kept = {} if latent else masks
    moments = _read_moments(model, checkpoint, files, kept) if optimizer else {}
    for path, variable in model.named_masks().items():
        variable.assign(masks[path])
    for path, weight in model.named_weights().items():
        weight.assign(weights[path])
    if optimizer:
        _restore_optimizer(model, step, state, moments, kept)
    if masks:
        model.note_densities()
    return step


def _read_masks(model: Any, checkpoint: Path, files: dict[str, Any]) -> Masks:
    """Returns the mask of each masked weight, if the model has the same ones."""
    masks, bits = model.named_masks(), _load(checkpoint, "masks", files)
    if masks and not bits:
        raise InputError(
            f"The checkpoint '{checkpoint}' has no masks, but the model is sparse "
            f"(sparsity={model.sparsity}). Use a checkpoint of a sparse run, or "
            "build the model with sparsity 0."
        )
    if set(bits) != set(masks):
        odd = sorted(set(bits) ^ set(masks))[0]
        raise InputError(
            f"The checkpoint '{checkpoint}' does not fit the model: only one of "
            f"them has a mask for '{odd}'. Use the sparsity that it was trained with."
        )
    return {path: unpack_mask(bits[path], _shape(masks[path])) for path in masks}


def _read_moments(
    model: Any, checkpoint: Path, files: dict[str, Any], kept: Masks
) -> Arrays:
    """Returns moments `m/PATH`, `v/PATH` and any cohorts `c/PATH`.

    Those of a path in `kept` are vectors of its kept weights, in the order of rows.
    """
    arrays = _load(checkpoint, "optimizer", files)
    moments = {path: array for path, array in arrays.items() if path[0] != "c"}
    for path, moment in moments.items():
        mask = kept.get(path[2:])
        if mask is not None and moment.shape == mask.shape:  # of format 1
            moments[path] = moment[mask]
    shapes = _shapes(trained_weights(model, model.named_weights()))
    shapes |= {path: (int(kept[path].sum()),) for path in shapes if path in kept}
    _check_fit(checkpoint, shapes, moments, ("m/", "v/"))
    return arrays | moments


def _restore_optimizer(
    model: Any, step: int, state: dict[str, Any], moments: Arrays, kept: Masks
) -> None:
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(step)
    for path, weight in trained_weights(model, model.named_weights()).items():
        # The cohort is last, if there is one.
        for name, variable in zip("mvc", optimizer.states(weight), strict=False):
            values = moments[f"{name}/{path}"]
            if _shape(variable) != values.shape:
                values = spread_kept(values, kept[path])
            variable.assign(values)
    for name, variable in optimizer.scaling_state.items():
        variable.assign(state["loss_scaling"][name])
    if model.mask_updates is not None:
        updates = state["mask_updates"]
        optimizer.mask_state.assign([updates["last"], updates["count"]])
        starts = np.zeros(optimizer.cohort_starts.shape, np.float32)
        known = updates["cohort_starts"][: len(starts)]
        starts[: len(known)] = known
        optimizer.cohort_starts.assign(starts)


def _load(checkpoint: Path, name: str, files: dict[str, Any]) -> Arrays:
    from safetensors.numpy import load_file

    file = f"{name}.safetensors"
    return dict(load_file(checkpoint / file)) if file in files else {}


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.shape)


def _shapes(variables: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: _shape(variable) for path, variable in variables.items()}


def _check_fit(
    checkpoint: Path,
    shapes: dict[str, tuple[int, ...]],
    arrays: Arrays,
    prefixes: tuple[str, ...] = ("",),
) -> None:
    expected = {
        prefix + path: shape for prefix in prefixes for path, shape in shapes.items()
    }
    found = {path: array.shape for path, array in arrays.items()}
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            raise InputError(
                f"The checkpoint '{checkpoint}' does not fit the model: '{path}' is "
                f"{found.get(path, 'missing')} in it and "
                f"{expected.get(path, 'unknown')} in the model."
            )
