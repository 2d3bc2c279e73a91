"""A batch whose rows start and end at different steps, as a server needs it.

`generate` starts all rows of a batch together and runs until the last one ends. Here
the loop is outside the graph: between two steps, rows leave and prompts join. All sizes
are free in the graphs, so each is traced once.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras.model.block import Cache
from spdf_keras.model.decoding.cache import Branches
from spdf_keras.model.decoding.passes import (
    effective_kernels,
    output_kernel,
    prefill,
    project,
)

# Prompts and the cache are padded to a multiple of this. TensorFlow compiles products
# for each size that it meets, and keeps the last 1,024 of them in memory.
_BUCKET = 32


class RunningBatch:
    """The rows that are decoded together, and their key-value cache.

    Masked or packed kernels are computed once, from the weights that the model has now.
    The logits are those of `generate`: both run the same passes.

    Args:
        model: The GPT.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._context = model.embedding.max_sequence_length
        self._kernels = effective_kernels(model, native=True)
        self._output = output_kernel(model)
        sizes, dtype = model.sizes, model.embedding.compute_dtype
        heads, head_dim = sizes.num_heads, sizes.hidden_dim // sizes.num_heads

        def caches(of: Any) -> list[Cache]:
            return [(of, of)] * sizes.num_layers

        nothing = caches(tf.zeros((0, heads, 0, head_dim), dtype))
        self._empty = Branches(nothing, nothing, tf.zeros((0, 1, 0), tf.bool))
        self._no_prompts = caches(tf.zeros((1, heads, 1, head_dim), dtype))
        matrix, column, vector, scalar = (
            tf.TensorSpec(shape, tf.int32)
            for shape in ((None, None), (None, 1), (None,), ())
        )
        slots = caches(tf.TensorSpec((None, heads, None, head_dim), dtype))
        spec = Branches(slots, slots, tf.TensorSpec((None, 1, None), tf.bool))
        self._prefill = tf.function(
            self._run_prefill, input_signature=[matrix, vector], autograph=False
        )
        self._decode = tf.function(
            self._run_decode,
            input_signature=[spec, column, vector, scalar],
            autograph=False,
        )
        self._regroup = tf.function(
            self._run_regroup,
            input_signature=[spec, vector, slots, vector, vector, scalar],
            autograph=False,
        )
        self.clear()

    def clear(self) -> None:
        """Drops all rows."""
        self._branches, self._steps = self._empty, 0
        self._lengths = np.zeros(0, np.int32)

    def regroup(
        self, kept: Sequence[int], prompts: Sequence[Sequence[int]]
    ) -> NDArray[np.float32]:
        """Drops rows and appends a row for each prompt; equal prompts are run once.

        Args:
            kept: Rows that stay, in their new order.
            prompts: Token ids of each new row, one to the context's number.

        Returns:
            Logits after each prompt, `(len(prompts), vocabulary_size)`.
        """
        rows = np.array(kept, np.int32)
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        after = np.concatenate([self._lengths[rows], lengths])
        caches, sources = self._no_prompts, np.zeros(0, np.int32)
        logits = np.zeros((0, self._model.embedding.vocabulary_size), np.float32)
        if prompts:
            unique = list(dict.fromkeys(map(tuple, prompts)))
            sources = np.array([unique.index(tuple(p)) for p in prompts], np.int32)
            last, caches = self._prefill(*self._padded(unique))
            logits = last.numpy()[sources]
        width = _rounded(after.max()) if len(after) else 0
        self._branches = self._regroup(
            self._branches, rows, caches, lengths, sources, np.int32(width)
        )
        self._lengths, self._steps = after, 0
        return logits

    def step(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Runs one more token of every row.

        Args:
            token_ids: A token for each row, which is put behind its past.

        Returns:
            Logits after these tokens, `(rows, vocabulary_size)`.
        """
        # A row that has ended keeps decoding until it is dropped; nobody reads it.
        positions = np.minimum(self._lengths, self._context - 1)
        column = np.array(token_ids, np.int32)[:, None]
        logits, self._branches = self._decode(
            self._branches, column, positions, np.int32(self._steps)
        )
        self._lengths, self._steps = self._lengths + 1, self._steps + 1
        return logits.numpy()

    def _padded(
        self, prompts: Sequence[Sequence[int]]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        width = min(_rounded(lengths.max()), self._context)
        token_ids = np.zeros((len(prompts), width), np.int32)
        for line, prompt in zip(token_ids, prompts, strict=True):
            line[: len(prompt)] = prompt
        return token_ids, lengths

    def _run_prefill(
        self, token_ids: tf.Tensor, lengths: tf.Tensor
    ) -> tuple[tf.Tensor, list[Cache]]:
        width = tf.shape(token_ids)[1]
        hidden, caches = prefill(self._model, token_ids, width, self._kernels)
        last = tf.gather(hidden, lengths - 1, batch_dims=1)[:, None]
        return project(self._model, last, self._output)[:, 0], caches

    def _run_regroup(self, branches: Branches, *arguments: Any) -> Branches:
        return branches.regroup(*arguments)

    def _run_decode(
        self, branches: Branches, token_ids: tf.Tensor, position: tf.Tensor, step: Any
    ) -> tuple[tf.Tensor, Branches]:
        hidden, branches = branches.step(
            self._model,
            self._kernels,
            token_ids,
            position,
            tf.zeros_like(token_ids),
            step,
        )
        return project(self._model, hidden, self._output)[:, 0], branches


def _rounded(size: int) -> int:
    return -(-int(size) // _BUCKET) * _BUCKET
