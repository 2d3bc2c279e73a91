"""The passes of decoding with a cache: prefill the prompts, then token by token."""

from functools import partial
from typing import Any

import tensorflow as tf

from spdf_keras.kernels import SkippingKernel, as_kernel
from spdf_keras.model.block import Cache
from spdf_keras.sparsity.wrapper import PruneFixedRandom

# For each block, its kernels by name: tensors, or packed kernels that skip zeros.
Kernels = list[dict[str, Any]]


def effective_kernels(model: Any, skip_zeros: bool = False) -> Kernels:
    """Returns each block's kernels by name, masked if the model is sparse.

    They are computed once before a loop, so that the decoding steps need no masking.
    They have the compute dtype of the blocks.

    Args:
        model: The GPT.
        skip_zeros: Pack `model.sparse_kernels`. Such a program needs the native
            library; exported programs have tensors.
    """
    blocks = []
    for layer in model.blocks:
        if isinstance(layer, PruneFixedRandom):
            pack = partial(SkippingKernel.lay_out, gradients=False)
            kernels = layer.masked_kernels(pack if skip_zeros else None)
        else:
            kernels = layer.own_kernels()
        blocks.append(
            {
                name: as_kernel(kernel, layer.compute_dtype)
                for name, kernel in kernels.items()
            }
        )
    return blocks


def prefill(
    model: Any, token_ids: tf.Tensor, cache_length: int | tf.Tensor, kernels: Kernels
) -> tuple[tf.Tensor, list[Cache]]:
    """Runs whole prompts at once.

    Rows may be padded at the right. The padding's entries in the cache lie behind the
    row's position; `decode` overwrites each before it reads it.

    Args:
        model: The GPT.
        token_ids: `(batch, length)`.
        cache_length: Slots of the caches, at least `length`.
        kernels: From `effective_kernels`.

    Returns:
        Hidden states `(batch, length, hidden_dim)` after the final norm, and per
        block keys and values `(batch, num_heads, cache_length, head_dim)`.
    """
    length = token_ids.shape[1]
    extra = cache_length - (tf.shape(token_ids)[1] if length is None else length)
    x, caches = model.embedding(token_ids), []
    for layer, own in zip(model.blocks, kernels, strict=True):
        x, cache = layer(x, kernels=own, return_cache=True)
        caches.append(
            tuple(tf.pad(part, [[0, 0], [0, 0], [0, extra], [0, 0]]) for part in cache)
        )
    return model.final_norm(x), caches


def decode(
    model: Any,
    token_ids: tf.Tensor,
    position: tf.Tensor,
    caches: list[Cache],
    kernels: Kernels,
) -> tuple[tf.Tensor, list[Cache]]:
    """Runs one more token of each row.

    Args:
        model: The GPT.
        token_ids: `(batch, 1)`.
        position: Position of the token in its row, `(batch,)`.
        caches: Per block, from `prefill` or the last `decode`.
        kernels: From `effective_kernels`.

    Returns:
        Hidden states `(batch, 1, hidden_dim)` after the final norm, and the
        caches with the token's keys and values.
    """
    x, after = model.embedding(token_ids, position=position[:, None]), []
    for layer, own, cache in zip(model.blocks, kernels, caches, strict=True):
        x, cache = layer(
            x, kernels=own, cache=cache, position=position, return_cache=True
        )
        after.append(cache)
    return model.final_norm(x), after


def project(model: Any, hidden: tf.Tensor) -> tf.Tensor:
    """Returns the float32 logits of hidden states from `prefill` or `decode`."""
    return tf.cast(model.embedding(hidden, reverse=True), tf.float32)
