"""The passes of decoding with a cache: prefill the prompts, then token by token."""

from functools import partial
from typing import Any

import tensorflow as tf

from spdf_keras.kernels import Kernel, SkippingKernel, TiledKernel, as_kernel, linear
from spdf_keras.model.block import Cache
from spdf_keras.native.build import NotBuiltError
from spdf_keras.native.tensorflow.operations import load_operations
from spdf_keras.sparsity.wrapper import PruneFixedRandom

# For each block, its kernels by name: tensors, or kernels of the native library.
Kernels = list[dict[str, Any]]


def effective_kernels(model: Any, native: bool = False) -> Kernels:
    """Returns each block's kernels by name, masked if the model is sparse.

    They are computed once before a loop, so that the decoding steps need no masking.
    They have the compute dtype of the blocks.

    Args:
        model: The GPT.
        native: Lay `model.sparse_kernels` out, and tile dense ones where that is
            faster. Such a program needs the native library; exported programs have
            tensors.
    """
    tiles = native and tiling_pays()
    blocks = []
    for layer in model.blocks:
        if isinstance(layer, PruneFixedRandom):
            pack = partial(SkippingKernel.lay_out, gradients=False)
            kernels = layer.masked_kernels(pack if native else None)
        else:
            kernels = layer.own_kernels()
        own = {
            name: as_kernel(kernel, layer.compute_dtype)
            for name, kernel in kernels.items()
        }
        blocks.append(
            {name: _tiled(kernel) for name, kernel in own.items()} if tiles else own
        )
    return blocks


def _tiled(kernel: Any) -> Any:
    is_float32 = tf.is_tensor(kernel) and kernel.dtype == tf.float32
    return TiledKernel.tile(kernel) if is_float32 else kernel


def tiling_pays() -> bool:
    """Whether products run on a CPU for which the native library can be compiled."""
    if tf.config.list_logical_devices("GPU"):
        return False
    try:
        load_operations()
    except NotBuiltError:
        return False
    return True


def output_kernel(model: Any) -> Kernel | None:
    """Returns the output projection in tiles, for `project`; None if they do not pay.

    Args:
        model: The GPT.
    """
    table = tf.convert_to_tensor(model.embedding.token_table)
    if model.embedding.compute_dtype != "float32" or not tiling_pays():
        return None
    return TiledKernel.tile(table, transposed=True)


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


def project(model: Any, hidden: tf.Tensor, output: Kernel | None = None) -> tf.Tensor:
    """Returns the float32 logits of hidden states from `prefill` or `decode`.

    Args:
        model: The GPT.
        hidden: `(batch, length, hidden_dim)`.
        output: From `output_kernel`.

    Returns:
        `(batch, length, vocabulary_size)`.
    """
    if output is not None:
        return linear(hidden, output, tf.zeros(model.embedding.vocabulary_size))
    return tf.cast(model.embedding(hidden, reverse=True), tf.float32)
