"""The decoding loop as one graph: greedy, random or beam search, as settings say."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.kernels import Kernel
from spdf_keras.model.decoding.beam_search import beam_search
from spdf_keras.model.decoding.cache import Branches
from spdf_keras.model.decoding.one_by_one import choose_one_by_one
from spdf_keras.model.decoding.passes import (
    Kernels,
    effective_kernels,
    output_kernel,
    prefill,
    project,
)
from spdf_keras.model.decoding.steps import Continuations, Prompts, Stepper


def search_function(
    model: Any, settings: DecodeConfig
) -> Callable[[Prompts], Continuations]:
    """Returns the compiled loop, which reads the model's weights at each call."""

    def run(prompts: Prompts) -> Continuations:
        kernels = effective_kernels(model, native=True)
        return search(model, settings, prompts, kernels, output_kernel(model))

    signature = [Prompts.signature()]
    return tf.function(run, input_signature=signature, autograph=False)


def search(
    model: Any,
    settings: DecodeConfig,
    prompts: Prompts,
    kernels: Kernels,
    output: Kernel | None = None,
) -> Continuations:
    """Continues prompts, as a part of a graph.

    Args:
        model: The GPT.
        settings: How to decode; `max_new_tokens`, `batch_size` and `seed` are unused.
        prompts: The batch of prompts.
        kernels: From `effective_kernels`.
        output: From `output_kernel`.
    """
    loop = beam_search if settings.num_beams > 1 else choose_one_by_one
    width = tf.shape(prompts.token_ids)[1]
    hidden, caches = prefill(model, prompts.token_ids, width, kernels)
    last = tf.gather(hidden, prompts.lengths - 1, batch_dims=1)[:, None]
    branches = Branches.start(caches, prompts.lengths, settings.num_beams)
    first = project(model, last, output)[:, 0]
    found = loop(Stepper(model, kernels, output, prompts), settings, first, branches)
    is_finite = tf.reduce_all(tf.math.is_finite(first), -1)
    return found._replace(counts=tf.where(is_finite, found.counts, -1))
