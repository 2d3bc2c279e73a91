"""The programs of an XLA export: pure functions of named arguments, as StableHLO.

Weights are arguments, never constants. A program is traced with the model's own
layers on a `skeleton`, and lowered to a portable artifact, which later versions of
XLA read too (StableHLO's compatibility guarantees).
"""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from spdf_keras.export.graphs import caches_of, exact_float32, named_caches
from spdf_keras.model.binding import bound
from spdf_keras.model.decoding.passes import decode, effective_kernels, prefill, project
from spdf_keras.model.gpt import GPT
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.optimization.update import Move, clip_factor, decays

# Oldest form that has all operations; whatever reads StableHLO 1.x reads it.
_STABLEHLO_VERSION = "1.0.0"

Tensors = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Argument:
    """An argument or a result of a program.

    Attributes:
        name: Its name; that of a weight is its path.
        role: `weight`, `mask`, `bits`, `values`, `moment`, `step`, `cache`, `input`
            or `output`. A runner makes moments and the step from zeros.
        shape: Its shape, all sizes fixed.
        dtype: Its dtype's name, as in NumPy.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Program:
    """A program in a file.

    Attributes:
        arguments: In the order of the call.
        results: In the order of the return.
        blob: The portable artifact.
    """

    arguments: tuple[Argument, ...]
    results: tuple[Argument, ...]
    blob: bytes


def lower(
    function: Callable[[Tensors], Tensors],
    arguments: Sequence[Argument],
    result_roles: dict[str, str] | None = None,
) -> Program:
    """Lowers a function of named tensors.

    Args:
        function: Tensors by name to tensors by name.
        arguments: What it takes.
        result_roles: Roles of results that are no `output`, by name.
    """
    from tensorflow.compiler.mlir.stablehlo import stablehlo

    names: list[str] = []

    def flat(*tensors: tf.Tensor) -> list[tf.Tensor]:
        given = {a.name: t for a, t in zip(arguments, tensors, strict=True)}
        results = function(given)
        names[:] = results
        return list(results.values())

    # TensorFlow lowers functions of specs only if each parameter has a name.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    flat.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(f"argument_{i}", kind) for i in range(len(arguments))]
    )
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arguments]
    # Else products of float32 are marked as good enough in TensorFloat-32.
    with exact_float32(), tf.device("CPU:0"):
        traced = tf.function(flat, jit_compile=True, autograph=False)
        concrete = traced.get_concrete_function(*specs)
        # Bytecode: as text, constants take many times their bytes.
        module = traced.experimental_get_compiler_ir(*specs)(
            stage="stablehlo_serialized"
        )
    results = tuple(
        Argument(
            name,
            (result_roles or {}).get(name, "output"),
            tuple(output.shape),
            output.dtype.name,
        )
        for name, output in zip(names, concrete.structured_outputs, strict=True)
    )
    blob = stablehlo.serialize_portable_artifact_str(module, _STABLEHLO_VERSION)
    return Program(tuple(arguments), results, blob)


def forward(model: GPT, given: Tensors) -> Tensors:
    """`token_ids` `(batch, length)` to `logits` `(batch, length, vocabulary_size)`."""
    token_ids = given["token_ids"]
    with bound(model, given):
        kernels = effective_kernels(model)
        hidden, _ = prefill(model, token_ids, token_ids.shape[1], kernels)
        return {"logits": project(model, hidden)}


def prefill_program(model: GPT, cache_length: int, given: Tensors) -> Tensors:
    """`token_ids` `(batch, prompt_length)`, padded at the right, and their `lengths`.

    Returns:
        `logits` after each prompt's last token, `(batch, vocabulary_size)`, and the
        caches `k_0, v_0, ...`, `(batch, num_heads, cache_length, head_dim)`.
    """
    with bound(model, given):
        kernels = effective_kernels(model)
        hidden, caches = prefill(model, given["token_ids"], cache_length, kernels)
        last = tf.gather(hidden, given["lengths"] - 1, batch_dims=1)[:, None]
        return {"logits": project(model, last)[:, 0], **named_caches(caches)}


def decode_program(model: GPT, given: Tensors) -> Tensors:
    """`token_ids` `(batch, 1)` at `position` `(batch,)`, and the caches.

    Returns:
        `logits` `(batch, vocabulary_size)` and the caches with the tokens' own.
    """
    with bound(model, given):
        caches = caches_of(given, len(model.blocks))
        kernels = effective_kernels(model)
        hidden, caches = decode(
            model, given["token_ids"], given["position"], caches, kernels
        )
        return {"logits": project(model, hidden)[:, 0], **named_caches(caches)}


def train_step(model: GPT, optimizer: AdamW | None, given: Tensors) -> Tensors:
    """A step of pre-training: forward, backward, clipping, AdamW, masks.

    What `GPT.train_step` does, with all state as arguments: weights by path, masks
    at `mask/PATH`, moments at `m/PATH` and `v/PATH`, and `step`, which counts those
    that were done. `token_ids`, `labels` and `sample_weight` are `(batch, length)`.

    Returns:
        `loss`, `gradient_norm`, and the state after the step.
    """
    assert optimizer is not None  # refused before
    paths = list(model.named_weights())
    weights = {path: given[path] for path in paths}
    masks = {path: given[f"mask/{path}"] for path in paths if f"mask/{path}" in given}
    shares = tf.math.divide_no_nan(
        given["sample_weight"], tf.reduce_sum(given["sample_weight"])
    )
    with tf.GradientTape() as tape:
        tape.watch(list(weights.values()))
        masked = {
            path: weight * tf.cast(masks[path], weight.dtype)
            if path in masks
            else weight
            for path, weight in weights.items()
        }
        with bound(model, masked):
            logits = model(given["token_ids"], training=True)
        nll = tf.nn.sparse_softmax_cross_entropy_with_logits(given["labels"], logits)
        loss = tf.reduce_sum(shares * nll)
    with warnings.catch_warnings():
        # The token table's gradient of the lookup joins a dense one in any case.
        warnings.filterwarnings("ignore", "Converting sparse IndexedSlices")
        gradients = tape.gradient(loss, weights)
    norm = tf.linalg.global_norm(list(gradients.values()))
    done = given["step"]
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
        moments = given[f"m/{path}"], given[f"v/{path}"]
        moved = move(shrunk, gradients[path], *moments)
        names = (path, f"m/{path}", f"v/{path}")
        state.update(zip(names, moved, strict=True))
    return {"loss": loss, "gradient_norm": norm, "step": done + 1, **state}


def unpack(bits: tf.Tensor, values: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Decodes a `Bitmask` to the dense array, in the graph.

    Args:
        bits: uint8, `(ceil(size / 8),)`.
        values: `(stored,)`.
        shape: Shape of the array.
    """
    if values.shape[0] == 0:
        return tf.zeros(shape, values.dtype)
    # A running sum over bytes, not entries: an eighth of the length.
    whole = tf.cast(tf.raw_ops.PopulationCount(x=bits), tf.int32)
    before = tf.cumsum(whole, exclusive=True)[:, None]
    byte = tf.cast(bits, tf.int32)[:, None]
    place = tf.range(8)[None, :]
    higher = tf.bitwise.right_shift(byte, 8 - place)  # the bits before each one
    inside = tf.cast(tf.raw_ops.PopulationCount(x=higher), tf.int32)
    is_stored = tf.bitwise.bitwise_and(tf.bitwise.right_shift(byte, 7 - place), 1) == 1
    index = tf.minimum(before + inside, values.shape[0] - 1)
    spread = tf.where(is_stored, tf.gather(values, index), tf.zeros((), values.dtype))
    return tf.reshape(tf.reshape(spread, (-1,))[: math.prod(shape)], shape)
