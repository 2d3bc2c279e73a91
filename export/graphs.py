"""Folded kernels, traces and exact products, which the exporters share."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.export.bitmask import information_bound
from spdf_keras.export.card import Logits
from spdf_keras.export.weights import require_finite
from spdf_keras.kernels import SkippingKernel
from spdf_keras.model.block import Cache
from spdf_keras.model.build import build_gpt
from spdf_keras.model.decoding.passes import Kernels, effective_kernels
from spdf_keras.model.gpt import GPT
from spdf_keras.model.substitution import substituted
from spdf_keras.values import as_type

# A kernel with fewer zeros is multiplied densely in programs that skip zeros: it gains
# nothing for long prompts, and packing it takes longest.
MIN_SPARSITY = 0.4

_PROMPT_LENGTH = 64
_FLOAT32_NOTE = (
    "Computes in float32; the model itself computes in {}, and its own logits differ "
    "by {:.1g} of the largest from those that the error compares with."
)
# Tokens of the prompt that both models get.
_COMPARED_TOKENS = 16


class FoldedKernels:
    """The kernels of all blocks, masks multiplied in, as variables of their own.

    They are variables, since a graph cannot hold 2 GB of constants, and the masks are
    multiplied here, since a mask in an exported file would be multiplied at every call.

    Args:
        model: The model; its weights are copied.
    """

    def __init__(self, model: GPT) -> None:
        with tf.device("CPU:0"):
            self._variables = [
                {
                    # A negative weight times 0 is -0.0, which a sparse encoding would
                    # store as a value; adding 0 makes it 0.0.
                    name: tf.Variable(
                        kernel + 0.0, trainable=False, name=f"{index}/{name}"
                    )
                    for name, kernel in block.items()
                }
                for index, block in enumerate(effective_kernels(model))
            ]

    def tensors(self) -> Kernels:
        """Reads the kernels as tensors, for `prefill` and `decode`."""
        return [
            {name: tf.convert_to_tensor(variable) for name, variable in block.items()}
            for block in self._variables
        ]

    def packed(self) -> Kernels:
        """Packs the kernels with many zeros, for `prefill` and `decode`.

        A program packs them at the head of each call, and then uses them for all of
        its tokens. It runs on CPUs, with this package's TensorFlow operations.
        """
        return [
            {
                name: SkippingKernel.lay_out(
                    kernel, tf.not_equal(kernel, 0), gradients=False
                )
                if self._has_many_zeros(index, name)
                else kernel
                for name, kernel in block.items()
            }
            for index, block in enumerate(self.tensors())
        ]

    @property
    def num_packed(self) -> int:
        """Number of kernels that `packed` packs."""
        return sum(self._has_many_zeros(*place) for place in self._counts)

    def _has_many_zeros(self, index: int, name: str) -> bool:
        size, kept = self._counts[index, name]
        return 1 - kept / size >= MIN_SPARSITY

    @cached_property
    def _counts(self) -> dict[tuple[int, str], tuple[int, int]]:
        """Entries and non-zeros of each kernel, by its block and name."""
        return {
            (index, name): (int(tf.size(v)), int(np.count_nonzero(v.numpy())))
            for index, block in enumerate(self._variables)
            for name, v in block.items()
        }

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in all kernels."""
        columns = zip(*self._counts.values(), strict=True)
        sizes, kept = (sum(column) for column in columns)
        return float(1.0 - kept / sizes)

    def redundant_bytes(self, value_bytes: int = 4) -> int:
        """Bytes that the best code of the zeros would save.

        Args:
            value_bytes: Bytes of a stored value.
        """
        return round(
            sum(
                size * value_bytes - information_bound(size, kept, value_bytes)
                for size, kept in self._counts.values()
            )
        )


def float32_model(model: GPT) -> tuple[GPT, tuple[str, ...]]:
    """Returns the model, or a copy that computes in float32, and notes for the card.

    Args:
        model: A GPT of any precision.

    Raises:
        InputError: If a weight is not finite.
    """
    for path, weight in model.named_weights().items():
        require_finite(path, weight.numpy())
    precision = model.embedding.dtype_policy.name
    if precision == "float32":
        return model, ()
    twin = build_gpt(model.sizes, model.sparsity, precision="float32")
    twin.set_weights(model.get_weights())
    token_ids = np.random.default_rng(0).integers(
        model.sizes.vocabulary_size,
        size=(1, min(_COMPARED_TOKENS, model.sizes.max_sequence_length)),
    )
    own, exact = (keras_logits(each, token_ids) for each in (model, twin))
    error = np.abs(own - exact).max() / max(np.abs(exact).max(), np.float32(1e-30))
    return twin, (_FLOAT32_NOTE.format(precision, error),)


def trace(function: Callable[..., Any], *specs: Any, **named_specs: Any) -> Any:
    """Traces a function into a concrete one, with the argument names of the specs."""
    graph = tf.function(function, autograph=False)
    return graph.get_concrete_function(*specs, **named_specs)


@contextlib.contextmanager
def reachable_positions(model: GPT, cache_length: int) -> Iterator[None]:
    """Cuts the position table while a function is traced.

    Args:
        model: The model; its table is as before at the end.
        cache_length: Number of positions that a cache can reach.
    """
    table = model.embedding.position_table
    if cache_length == table.shape[0]:
        yield
        return
    reachable = tf.convert_to_tensor(table)[:cache_length]
    with substituted([(model.embedding, "position_table", reachable)]):
        yield


def write_signatures(
    functions: Mapping[str, Any],
    path: Path,
    *tracked: tf.Module,
    variables: Sequence[tf.Variable] | None = None,
) -> None:
    """Writes a SavedModel of concrete functions.

    Args:
        functions: The function of each signature by its name.
        path: Folder to write.
        *tracked: Modules whose tables the functions use.
        variables: Variables of the folder in their order, by which they are stored;
            `used_variables` if None.
    """
    # The module holds variables alone: one that holds a Keras object is traced again
    # when it is saved, and needs Keras when it is loaded.
    module = tf.Module()
    module.tracked = list(tracked)
    if variables is None:
        variables = used_variables(functions.values())
    module.variables_used = list(variables)
    tf.saved_model.save(module, str(path), signatures=dict(functions))


def used_variables(functions: Iterable[Any]) -> list[tf.Variable]:
    """Returns the variables of concrete functions, each once."""
    return list({id(v): v for f in functions for v in f.variables}.values())


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Keeps GPUs from TensorFloat-32, whose products are off by 1e-3."""
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(before)


def keras_logits(model: GPT, token_ids: Sequence[Any] | np.ndarray) -> Logits:
    """Computes the model's logits, `(batch, length, vocabulary_size)`, in float32."""
    with exact_float32():
        return model(np.asarray(token_ids, np.int32), training=False).numpy()


def checked_lengths(
    context: int, prompt_length: int, cache_length: int
) -> tuple[int, int]:
    """Fills in and checks the fixed sizes of `prefill` and `decode`.

    Args:
        context: The model's context.
        prompt_length: Longest prompt; 0 is 64, or the cache where that is shorter.
        cache_length: Longest sequence, prompt and continuation; 0 is the context.

    Returns:
        Prompt length and cache length.

    Raises:
        InputError: If a length is out of range.
    """
    cache_length = as_type("cache_length", int, cache_length) or context
    if not 1 <= cache_length <= context:
        raise InputError(
            f"`cache_length` must be in [1, {context}], the context. "
            f"Received: cache_length={cache_length}."
        )
    prompt_length = as_type("prompt_length", int, prompt_length)
    prompt_length = prompt_length or min(_PROMPT_LENGTH, cache_length)
    if not 1 <= prompt_length <= cache_length:
        raise InputError(
            f"`prompt_length` must be in [1, {cache_length}], the cache's length. "
            f"Received: prompt_length={prompt_length}."
        )
    return prompt_length, cache_length


def cache_names(num_layers: int) -> list[str]:
    """Names of the caches of all blocks: `k_0, v_0, k_1, ...`."""
    return [f"{letter}_{index}" for index in range(num_layers) for letter in "kv"]


def named_caches(caches: list[Cache]) -> dict[str, tf.Tensor]:
    """Maps the caches of all blocks to their names."""
    parts = [part for cache in caches for part in cache]
    return dict(zip(cache_names(len(caches)), parts, strict=True))


def caches_of(named: Mapping[str, tf.Tensor], num_layers: int) -> list[Cache]:
    """Inverts `named_caches`; other names are ignored."""
    parts = [named[name] for name in cache_names(num_layers)]
    return list(zip(parts[::2], parts[1::2], strict=True))
