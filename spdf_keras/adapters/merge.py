"""Adds an adapter to the weights that it was trained beside."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spdf_keras.adapters.adapter import require_lora
from spdf_keras.adapters.attach import base_weights, rebuilt
from spdf_keras.errors import InputError
from spdf_keras.model.gpt import GPT
from spdf_keras.model.paths import adapter_path, kernel_path
from spdf_keras.sparsity.wrapper import unwrap


def merge(model: GPT, keep_masks: bool = False) -> GPT:
    """Returns a model without adapters, whose kernels are `W + scale * P @ Q`.

    The product of P and Q has no zeros, so a sparse model becomes dense in each kernel
    that has an adapter. With `keep_masks` the product is masked as W is, `W + scale *
    (P @ Q) * M`: the zeros stay, but the model computes another function than the one
    that was trained, unless it is trained further. `kept_share` says how much is left.

    Args:
        model: A model with adapters; it is not changed.
        keep_masks: Whether the new model keeps the masks.

    Returns:
        The model, not compiled. Without `keep_masks` it is dense: it has no masks.

    Raises:
        InputError: If the model has no adapters, or no masks to keep.

    Reference:
        The masked product is that of SparsePEFT, in SQFT of Munoz et al., 2024.
    """
    require_lora(model)
    if keep_masks:
        require_masks(model)
    merged = rebuilt(model, masks=keep_masks)
    weights, variables = base_weights(model), merged.named_weights()
    masks = merged.named_masks()
    for path, product in products(model):
        if path in masks:
            product = np.where(masks[path].numpy(), product, 0)
        weights[path] = (weights[path] + product).astype(np.float32)
    for path, weight in weights.items():
        variables[path].assign(weight)
    return merged


def products(model: GPT) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yields `scale * P @ Q` of each kernel with an adapter, by the kernel's path."""
    scale, adapters = require_lora(model).scale, model.named_adapters()
    for block in map(unwrap, model.blocks):
        for name in block.adapted_names:
            down, up = (
                adapters[adapter_path(block.name, name, part)].numpy()
                for part in ("down", "up")
            )
            product = down.astype(np.float64) @ up.astype(np.float64)
            yield kernel_path(block.name, name), scale * product


def kept_share(model: GPT) -> float:
    """Returns the share of the adapters' squared norm that the masks would keep.

    Raises:
        InputError: If the model has no masks.
    """
    masks = require_masks(model)
    kept = whole = 0.0
    for path, product in products(model):
        squares = np.square(product)
        whole += float(squares.sum())
        kept += float(squares[masks[path]].sum())
    return kept / whole if whole else 1.0


def require_masks(model: GPT) -> dict[str, NDArray[np.bool_]]:
    """Returns the masks of a model by the paths of its kernels.

    Raises:
        InputError: If it has none.
    """
    masks = {path: mask.numpy() for path, mask in model.named_masks().items()}
    if not masks:
        raise InputError(
            "`keep_masks` must be false for a model without masks. Received: true for "
            "a dense model. Leave it out."
        )
    return masks
