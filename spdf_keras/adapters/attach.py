"""Models with an adapter, from models without one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.adapters.adapter import Adapter
from spdf_keras.config import LoRAConfig
from spdf_keras.model.build import functional_gpt
from spdf_keras.model.gpt import GPT
from spdf_keras.sparsity.algorithms.registry import settled
from spdf_keras.sparsity.wrapper import PruneFixedRandom


def adapt(model: GPT, adapter: Adapter | LoRAConfig) -> GPT:
    """Returns a model with an adapter beside the weights of another, which are frozen.

    Masks and precision are those of `model`, and products skip the zeros that they skip
    there. An adapter that `model` has already is left out.

    Args:
        model: A model, dense or sparse; it is not changed.
        adapter: An adapter, or the settings of a new one, which changes no output yet.

    Returns:
        The model, not compiled.

    Raises:
        InputError: If the adapter does not fit the model.

    Example:
        >>> from spdf_keras import build_gpt
        >>> adapted = adapt(build_gpt("gpt_nano", sparsity=0.75), LoRAConfig(rank=4))
        >>> adapted.sparsity, len(adapted.trainable_variables)
        (0.75, 16)
    """
    given = adapter if isinstance(adapter, Adapter) else None
    adapted = rebuilt(model, given.lora if given else adapter)
    for path, weight in base_weights(model).items():
        adapted.named_weights()[path].assign(weight)
    if given is not None:
        given.put_into(adapted)
    return adapted


def rebuilt(model: GPT, lora: Any = None, masks: bool = True) -> GPT:
    """Builds a model of the same sizes, with other weights.

    Args:
        model: The model.
        lora: Settings of adapters; none if None.
        masks: Whether the new model has the masks of `model`, and skips their zeros.
    """
    wrappers = [block for block in model.blocks if isinstance(block, PruneFixedRandom)]
    work: dict[str, Any] = {}
    if masks and wrappers:
        first = wrappers[0]
        work = {
            "sparsity": settled(first.settings),
            "compute": first.compute,
            "tokens": first.tokens,
            "micro_batches": first.micro_batches,
        }
    twin = functional_gpt(
        model.sizes, precision=model.embedding.dtype_policy.name, lora=lora, **work
    )
    for path, mask in twin.named_masks().items():
        mask.assign(model.named_masks()[path])
    if masks and wrappers:
        twin.note_densities()
        # New timings of `auto` might choose other kernels.
        twin.sparse_kernels = model.sparse_kernels
    return twin


def base_weights(model: GPT) -> dict[str, NDArray[np.float32]]:
    """Returns the weights beside the adapters by path, zero where their masks are 0."""
    adapters, masks = model.named_adapters(), model.named_masks()
    weights = {p: w for p, w in model.named_weights().items() if p not in adapters}
    return {
        path: np.where(masks[path].numpy(), weight.numpy(), np.float32(0))
        if path in masks
        else weight.numpy()
        for path, weight in weights.items()
    }
