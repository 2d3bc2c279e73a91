"""Computations of an XLA export: pure functions from named tensors to named tensors.

Weights are arguments, never constants. The functions run the model's own layers on a
`skeleton`, whose weights they replace by their arguments.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from spdf_keras.export.graphs import caches_of, named_caches
from spdf_keras.export.xla.calls import MaskedCall
from spdf_keras.export.xla.lowering import Tensors
from spdf_keras.kernels import Kernel
from spdf_keras.model.binding import bound
from spdf_keras.model.decoding.passes import decode, effective_kernels, prefill, project
from spdf_keras.model.gpt import GPT
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.optimization.update import Move, clip_factor, decays

SIGNATURES = ("forward", "prefill", "decode", "train_step")


def forward(model: GPT, tensors: Tensors) -> Tensors:
    """Takes `token_ids` `(batch, length)`.

    Returns:
        `logits` `(batch, length, vocabulary_size)`.
    """
    token_ids = tensors["token_ids"]
    with bound(model, tensors):
        kernels = effective_kernels(model)
        hidden, _ = prefill(model, token_ids, token_ids.shape[1], kernels)
        return {"logits": project(model, hidden)}


def prefill_program(model: GPT, cache_length: int, tensors: Tensors) -> Tensors:
    """Takes `token_ids` `(batch, prompt_length)`, padded at the right, and `lengths`.

    Returns:
        `logits` after each prompt's last token, `(batch, vocabulary_size)`, and the
        caches `k_0, v_0, ...`, `(batch, num_heads, cache_length, head_dim)`.
    """
    with bound(model, tensors):
        kernels = effective_kernels(model)
        hidden, caches = prefill(model, tensors["token_ids"], cache_length, kernels)
        last = tf.gather(hidden, tensors["lengths"] - 1, batch_dims=1)[:, None]
        return {"logits": project(model, last)[:, 0], **named_caches(caches)}


def decode_program(model: GPT, tensors: Tensors) -> Tensors:
    """Takes `token_ids` `(batch, 1)` at `position` `(batch,)`, and the caches.

    Returns:
        `logits` `(batch, vocabulary_size)`, and the caches with the new tokens.
    """
    with bound(model, tensors):
        caches = caches_of(tensors, len(model.blocks))
        kernels = effective_kernels(model)
        hidden, caches = decode(
            model, tensors["token_ids"], tensors["position"], caches, kernels
        )
        return {"logits": project(model, hidden)[:, 0], **named_caches(caches)}


def train_step(model: GPT, optimizer: AdamW | None, tensors: Tensors) -> Tensors:
    """Takes a step of pre-training: forward, backward, clipping, AdamW, masks.

    It computes what `GPT.train_step` does, with all state as arguments: weights by
    path, masks at `mask/PATH`, moments at `m/PATH` and `v/PATH`, and `step`, the number
    of steps before it. `token_ids`, `labels` and `sample_weight` are `(batch, length)`.
    The id of a mask at `structure/PATH` takes the place of the mask where the zeros of
    the kernel are skipped.

    Returns:
        `loss`, `gradient_norm`, and the state after the step.
    """
    assert optimizer is not None  # `XLAPlan.of` refuses it before
    paths = list(model.named_weights())
    weights = {path: tensors[path] for path in paths}
    shares = tf.math.divide_no_nan(
        tensors["sample_weight"], tf.reduce_sum(tensors["sample_weight"])
    )
    with tf.GradientTape() as tape:
        tape.watch(list(weights.values()))
        masked = {
            path: _masked(path, weight, tensors) for path, weight in weights.items()
        }
        with bound(model, masked):
            logits = model(tensors["token_ids"], training=True)
        nll = tf.nn.sparse_softmax_cross_entropy_with_logits(tensors["labels"], logits)
        loss = tf.reduce_sum(shares * nll)
    with warnings.catch_warnings():
        # The sparse gradient of the token lookup is added to a dense one in any case.
        warnings.filterwarnings("ignore", "Converting sparse IndexedSlices")
        gradients = tape.gradient(loss, weights)
    norm = tf.linalg.global_norm(list(gradients.values()))
    done = tensors["step"]
    rate: Any = optimizer._learning_rate
    rate = rate(done) if callable(rate) else tf.constant(float(rate))
    move = Move.of(
        optimizer,
        rate,
        tf.cast(done + 1, tf.float32),
        clip_factor(norm, optimizer.global_clipnorm),
    )
    state: Tensors = {}
    for path, weight in weights.items():
        shrunk = weight * move.shrink if decays(weight.shape) else weight
        moments = tensors[f"m/{path}"], tensors[f"v/{path}"]
        moved = move(shrunk, gradients[path], *moments)
        names = (path, f"m/{path}", f"v/{path}")
        state.update(zip(names, moved, strict=True))
    return {"loss": loss, "gradient_norm": norm, "step": done + 1, **state}


def _masked(path: str, weight: tf.Tensor, tensors: Tensors) -> tf.Tensor | Kernel:
    if f"structure/{path}" in tensors:
        return MaskedCall(weight, tensors[f"structure/{path}"])
    if f"mask/{path}" in tensors:
        return weight * tf.cast(tensors[f"mask/{path}"], weight.dtype)
    return weight


def unpack(bits: tf.Tensor, values: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Decodes a `Bitmask` to the dense array, in the graph.

    Args:
        bits: uint8, `(ceil(size / 8),)`.
        values: `(stored,)`.
        shape: Shape of the array.
    """
    if values.shape[0] == 0:
        return tf.zeros(shape, values.dtype)
    # The running sum is over bytes, as these are an eighth of the entries.
    whole = tf.cast(tf.raw_ops.PopulationCount(x=bits), tf.int32)
    before = tf.cumsum(whole, exclusive=True)[:, None]
    byte = tf.cast(bits, tf.int32)[:, None]
    place = tf.range(8)[None, :]
    higher = tf.bitwise.right_shift(byte, 8 - place)  # the bits before each bit
    inside = tf.cast(tf.raw_ops.PopulationCount(x=higher), tf.int32)
    is_stored = tf.bitwise.bitwise_and(tf.bitwise.right_shift(byte, 7 - place), 1) == 1
    index = tf.minimum(before + inside, values.shape[0] - 1)
    spread = tf.where(is_stored, tf.gather(values, index), tf.zeros((), values.dtype))
    return tf.reshape(tf.reshape(spread, (-1,))[: math.prod(shape)], shape)
