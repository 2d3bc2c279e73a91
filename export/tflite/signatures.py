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
    reachable_positions,
    trace,
)
from spdf_keras.model.decoding.passes import decode, prefill, project
from spdf_keras.model.gpt import GPT

LOGITS = ("last", "all")


@dataclass(frozen=True)
class TFLitePlan:
    """The fixed shapes of a file's signatures.

    Attributes:
        prompt_length: Longest prompt, in tokens.
        cache_length: Longest sequence, prompt and continuation together.
        logits: The tokens that `prefill` projects to logits, one of `LOGITS`.
    """

    prompt_length: int
    cache_length: int
    logits: str


def trace_signatures(
    model: GPT, kernels: FoldedKernels, plan: TFLitePlan
) -> dict[str, Any]:
    """Traces both signatures; returns concrete functions by name."""
    sizes = model.sizes

    def run_prefill(
        token_ids: tf.Tensor, lengths: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        hidden, caches = prefill(model, token_ids, plan.cache_length, kernels.tensors())
        if lengths is not None:
            # The product is exact, and unlike a gather XNNPACK runs it with the rest.
            last = tf.one_hot(lengths - 1, plan.prompt_length, dtype=hidden.dtype)
            hidden = tf.matmul(last[:, None], hidden)
        return {"logits": project(model, hidden), **named_caches(caches)}

    def run_decode(
        token_ids: tf.Tensor, position: tf.Tensor, **named: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        caches = caches_of(named, sizes.num_layers)
        with reachable_positions(model, plan.cache_length):
            hidden, caches = decode(
                model, token_ids, position, caches, kernels.tensors()
            )
        return {"logits": project(model, hidden), **named_caches(caches)}

    head_dim = sizes.hidden_dim // sizes.num_heads
    cache = (1, sizes.num_heads, plan.cache_length, head_dim)
    prompt = [tf.TensorSpec((1, plan.prompt_length), tf.int32, "token_ids")]
    if plan.logits == "last":
        prompt.append(tf.TensorSpec((1,), tf.int32, "lengths"))
    return {
        "prefill": trace(run_prefill, *prompt),
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
