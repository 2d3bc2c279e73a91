"""The signatures that LiteRT-LM asks for: `decode`, and prefills of fixed sizes.

The runtime knows inputs and outputs by their names. It cuts a prompt into pieces, one
call of a `prefill_N` each, and gives the last token of every prompt to `decode`, so a
prefill returns no logits. A piece may be shorter than `N`: it is padded at the right.
"""

from typing import Any

import tensorflow as tf

from spdf_keras.export.graphs import (
    FoldedKernels,
    cache_names,
    caches_of,
    named_caches,
    reachable_positions,
    trace,
)
from spdf_keras.model.block import Cache
from spdf_keras.model.decoding.passes import Kernels, decode, project
from spdf_keras.model.gpt import GPT

# The runtime finds the caches by this beginning of their names.
_CACHE = "kv_cache_"

# Each prefill is so many times as long as the one below it.
_GROWTH = 8


def prefill_lengths(longest: int) -> list[int]:
    """Returns the lengths of all prefills, up to `longest`.

    The runtime takes a prefill only where all of its slots are free in the cache, so
    the shortest has one token: it reaches the cache's end.

    Example:
        >>> prefill_lengths(128)
        [1, 8, 64, 128]
    """
    lengths, length = [], 1
    while length < longest:
        lengths.append(length)
        length *= _GROWTH
    return [*lengths, longest]


def cache_input(name: str) -> str:
    """Returns the runtime's name for a cache, as in `kv_cache_k_0` for `k_0`."""
    return f"{_CACHE}{name}"


def trace_signatures(
    model: GPT, kernels: FoldedKernels, lengths: list[int], cache_length: int
) -> dict[str, Any]:
    """Traces all signatures; returns concrete functions by name.

    Args:
        model: The model.
        kernels: Its kernels, masks folded in.
        lengths: Tokens of each prefill.
        cache_length: Slots of the caches.
    """
    sizes = model.sizes

    def run_prefill(
        tokens: tf.Tensor, input_pos: tf.Tensor, **named: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        caches = _caches(named, sizes.num_layers)
        with reachable_positions(model, cache_length):
            after = _extend(model, tokens, input_pos, caches, kernels.tensors())
        return _named(after)

    def run_decode(
        tokens: tf.Tensor, input_pos: tf.Tensor, **named: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        caches = _caches(named, sizes.num_layers)
        with reachable_positions(model, cache_length):
            hidden, after = decode(model, tokens, input_pos, caches, kernels.tensors())
        return {"logits": project(model, hidden), **_named(after)}

    def traced(function: Any, length: int) -> Any:
        return trace(
            function,
            tf.TensorSpec((1, length), tf.int32, "tokens"),
            tf.TensorSpec((length,), tf.int32, "input_pos"),
            **caches,
        )

    shape = (1, sizes.num_heads, cache_length, sizes.hidden_dim // sizes.num_heads)
    caches = {
        cache_input(name): tf.TensorSpec(shape, name=cache_input(name))
        for name in cache_names(sizes.num_layers)
    }
    return {
        **{f"prefill_{length}": traced(run_prefill, length) for length in lengths},
        "decode": traced(run_decode, 1),
    }


def _extend(
    model: GPT,
    token_ids: tf.Tensor,
    input_pos: tf.Tensor,
    caches: list[Cache],
    kernels: Kernels,
) -> list[Cache]:
    """Runs several more tokens at once; returns the caches with theirs.

    Args:
        model: The GPT.
        token_ids: `(1, length)`, padded at the right. The padding's entries lie behind
            those of the tokens and are overwritten before they are read.
        input_pos: Positions of the tokens, `(length,)`. Only the first one counts, as
            the runtime fills those of the padding with zeros.
        caches: Per block, what was written so far.
        kernels: From `effective_kernels`.
    """
    length, cache_length = token_ids.shape[1], caches[0][0].shape[2]
    steps, start = tf.range(length), input_pos[0]
    positions = start + steps
    old = tf.broadcast_to(tf.range(cache_length) < start, (length, cache_length))
    allowed = tf.concat([old, steps[:, None] >= steps[None, :]], 1)[None]
    # This blend is exact, and unlike a scatter XNNPACK runs it in one piece.
    slots = tf.one_hot(positions, cache_length, axis=0)[None, None]
    kept = 1.0 - tf.reduce_sum(slots, -1, keepdims=True)
    x, after = model.embedding(token_ids, position=positions[None]), []
    for layer, own, past in zip(model.blocks, kernels, caches, strict=True):
        x, new = layer(x, kernels=own, past=[past], allowed=allowed, return_cache=True)
        key, value = (
            before * kept + tf.matmul(tf.repeat(slots, part.shape[1], 1), part)
            for before, part in zip(past, new, strict=True)
        )
        after.append((key, value))
    return after


def _caches(named: dict[str, tf.Tensor], num_layers: int) -> list[Cache]:
    plain = {name.removeprefix(_CACHE): cache for name, cache in named.items()}
    return caches_of(plain, num_layers)


def _named(caches: list[Cache]) -> dict[str, tf.Tensor]:
    return {cache_input(name): part for name, part in named_caches(caches).items()}
