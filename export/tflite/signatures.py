"""The signatures of a `.tflite` file, `prefill` and `decode`, with fixed shapes.

Their arguments and results stand in `to_tflite`.
"""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from spdf_keras.export.graphs import (
    FoldedKernels,
    cache_names,
    caches_of,
    named_caches,
    trace,
)
from spdf_keras.model.decoding.passes import decode, prefill, project
from spdf_keras.model.gpt import GPT


@dataclass(frozen=True)
class Lengths:
    """The fixed lengths of a file.

    Attributes:
        prompt: Longest prompt, in tokens.
        cache: Longest sequence, prompt and continuation together.
    """

    prompt: int
    cache: int


def trace_signatures(
    model: GPT, kernels: FoldedKernels, lengths: Lengths
) -> dict[str, Any]:
    """Traces both signatures; returns concrete functions by name."""
    sizes = model.sizes

    def run_prefill(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden, caches = prefill(model, token_ids, lengths.cache, kernels.tensors())
        return {"logits": project(model, hidden), **named_caches(caches)}

    def run_decode(
        token_ids: tf.Tensor, position: tf.Tensor, **named: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        caches = caches_of(named, sizes.num_layers)
        hidden, caches = decode(model, token_ids, position, caches, kernels.tensors())
        return {"logits": project(model, hidden), **named_caches(caches)}

    head_dim = sizes.hidden_dim // sizes.num_heads
    cache = (1, sizes.num_heads, lengths.cache, head_dim)
    return {
        "prefill": trace(
            run_prefill, tf.TensorSpec((1, lengths.prompt), tf.int32, "token_ids")
        ),
        "decode": trace(
            run_decode,
            tf.TensorSpec((1, 1), tf.int32, "token_ids"),
            tf.TensorSpec((1,), tf.int32, "position"),
            **{
                name: tf.TensorSpec(cache, name=name)
                for name in cache_names(sizes.num_layers)
            },
        ),
    }
