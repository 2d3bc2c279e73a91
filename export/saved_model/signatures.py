"""The signatures of SavedModels: from token ids, and from text.

`serving_default`, `generate` and `generate_beam` take token ids; their shapes stand in
`to_saved_model`. `generate_text` takes strings; see `to_text_model`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.data.tokenizers.in_graph import GraphTokenizer
from spdf_keras.errors import InputError
from spdf_keras.export.graphs import FoldedKernels, trace
from spdf_keras.model.decoding.generator import check_beams
from spdf_keras.model.decoding.passes import prefill, project
from spdf_keras.model.decoding.search import search
from spdf_keras.model.decoding.steps import Continuations, Prompts
from spdf_keras.model.gpt import GPT

SIGNATURES = ("serving_default", "generate", "generate_beam")

# The settings of the LoRA recipe, which the paper's tables use.
BEAM_SEARCH = DecodeConfig(num_beams=10, length_penalty=0.8, no_repeat_ngram_size=4)

_TOKEN_IDS = tf.TensorSpec((None, None), tf.int32, name="token_ids")
_LENGTHS = tf.TensorSpec((None,), tf.int32, name="lengths")
_NEW_TOKENS = tf.TensorSpec((), tf.int32, name="max_new_tokens")
_TEXTS = tf.TensorSpec((None,), tf.string, name="text")
_PADDING = -1


@dataclass(frozen=True)
class Decoding:
    """How a signature continues prompts.

    Attributes:
        model: The model.
        kernels: Its kernels, masks folded in.
        end_token_ids: Tokens that end a continuation, and are not returned.
        settings: Settings of the search; its length comes with each call.

    Raises:
        InputError: If the graph cannot decode in this way.
    """

    model: GPT
    kernels: FoldedKernels
    end_token_ids: Sequence[int]
    settings: DecodeConfig

    def __post_init__(self) -> None:
        if self.settings.sample:
            raise InputError("A SavedModel does not sample: `sample` must be false.")
        check_beams(self.settings, self.model.embedding.vocabulary_size)

    def continue_prompts(
        self, token_ids: tf.Tensor, lengths: tf.Tensor, max_new_tokens: tf.Tensor
    ) -> Continuations:
        """Continues padded prompts in the graph that is traced."""
        context = self.model.embedding.max_sequence_length
        must = f"`lengths` must be in [1, {context - 1}], and no more than the tokens."
        fits = (
            (lengths >= 1) & (lengths < context) & (lengths <= tf.shape(token_ids)[1])
        )
        check = tf.debugging.Assert(tf.reduce_all(fits), [must, lengths])
        few = tf.debugging.Assert(
            max_new_tokens > 0, ["`max_new_tokens` must be positive."]
        )
        with tf.control_dependencies([check, few]):
            limits = tf.minimum(max_new_tokens, context - lengths)
        # Padding may be any number, and -1 is no token that could be looked up.
        token_ids = tf.maximum(token_ids, 0)
        prompts = Prompts(
            token_ids,
            lengths,
            limits,
            tf.constant(list(self.end_token_ids), tf.int32),
            tf.zeros((tf.shape(lengths)[0], 0)),
        )
        return search(self.model, self.settings, prompts, self.kernels.tensors())


def trace_logits(model: GPT, kernels: FoldedKernels) -> Any:
    """Traces `serving_default`: `token_ids` to `logits`."""

    def serve(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden, _ = prefill(model, token_ids, tf.shape(token_ids)[1], kernels.tensors())
        return {"logits": project(model, hidden)}

    return trace(serve, _TOKEN_IDS)


def trace_generation(decoding: Decoding) -> Any:
    """Traces `generate` or, with several beams, `generate_beam`."""

    def run(token_ids: Any, lengths: Any, max_new_tokens: Any) -> Any:
        new = decoding.continue_prompts(token_ids, lengths, max_new_tokens)
        scores = {"scores": new.scores} if decoding.settings.num_beams > 1 else {}
        padded = {"token_ids": _padded_tokens(new), "lengths": new.counts}
        return {**padded, **scores}

    return trace(run, _TOKEN_IDS, _LENGTHS, _NEW_TOKENS)


def trace_text(
    decoding: Decoding, in_graph: GraphTokenizer, separator_id: int | None
) -> Any:
    """Traces the signature of `to_text_model`: `text` to `text`.

    Args:
        decoding: How prompts are continued.
        in_graph: The tokenizer.
        separator_id: Token that closes each text, as in the fine-tuning tasks, whose
            outputs stop at an empty line; None continues plain text.
    """
    context = decoding.model.embedding.max_sequence_length
    separator = separator_id is not None

    def run(text: tf.Tensor, max_new_tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        max_new_tokens = tf.clip_by_value(max_new_tokens, 1, context - 2)
        rows = in_graph.encode_batch(text)[:, : context - max_new_tokens - separator]
        if separator:
            close = tf.fill((tf.shape(text)[0], 1), separator_id)
            rows = tf.concat([rows, close], 1)
        lengths = tf.cast(rows.row_lengths(), tf.int32)
        new = decoding.continue_prompts(rows.to_tensor(), lengths, max_new_tokens)
        tokens = tf.RaggedTensor.from_tensor(_padded_tokens(new), new.counts)
        output = in_graph.decode_batch(tokens)
        if separator:
            output = tf.strings.regex_replace(output, r"(?s)\n\n.*", "")
        return {"text": tf.strings.strip(output)}

    return trace(run, _TEXTS, _NEW_TOKENS)


def _padded_tokens(new: Continuations) -> tf.Tensor:
    """Returns the new tokens, with -1 behind the end of each continuation."""
    counted = tf.sequence_mask(new.counts, tf.shape(new.token_ids)[1])
    return tf.where(counted, new.token_ids, _PADDING)
