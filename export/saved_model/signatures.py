"""The signatures of SavedModels: from token ids, and from text.

`serving_default`, `generate` and `generate_beam` take token ids; their shapes stand in
`to_saved_model`. `generate_text` takes strings; see `to_text_model`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.data.tokenizers.in_graph import GraphTokenizer
from spdf_keras.errors import InputError
from spdf_keras.export.graphs import trace
from spdf_keras.model.decoding.generator import check_beams
from spdf_keras.model.decoding.passes import Kernels, prefill, project
from spdf_keras.model.decoding.search import search
from spdf_keras.model.decoding.steps import Continuations, Prompts
from spdf_keras.model.gpt import GPT

SIGNATURES = ("serving_default", "generate", "generate_beam")

# The settings of the LoRA recipe, which the paper's tables use.
BEAM_SEARCH = DecodeConfig(num_beams=10, length_penalty=0.8, no_repeat_ngram_size=4)

_TOKEN_IDS = tf.TensorSpec((None, None), tf.int32, name="token_ids")
_LENGTHS = tf.TensorSpec((None,), tf.int32, name="lengths")
# One limit per row, as TensorFlow Serving batches only inputs with a first dimension.
_NEW_TOKENS = tf.TensorSpec((None,), tf.int32, name="max_new_tokens")
_TEXTS = tf.TensorSpec((None,), tf.string, name="text")
_PADDING = -1


Tensors = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Decoding:
    """How a signature continues prompts.

    Attributes:
        model: The model.
        kernels: Returns its kernels, masks folded in, in the graph that is traced.
        end_token_ids: Tokens that end a continuation, and are not returned.
        settings: Settings of the search; its length comes with each call.

    Raises:
        InputError: If the graph cannot decode in this way.
    """

    model: GPT
    kernels: Callable[[], Kernels]
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
        rows, width = tf.unstack(tf.shape(token_ids))
        sizes = tf.stack([tf.shape(lengths)[0], tf.shape(max_new_tokens)[0]])
        must = "`lengths` and `max_new_tokens` must have an entry per row of token ids."
        with _requiring(tf.reduce_all(sizes == rows), must, sizes):
            lengths = tf.identity(lengths)
        must = f"`lengths` must be in [1, {context - 1}], and no more than the tokens."
        fit = (lengths >= 1) & (lengths < context) & (lengths <= width)
        with _requiring(tf.reduce_all(fit), must, lengths):
            inside = tf.sequence_mask(lengths, width)
        # A batch without rows may have no columns either, which layers cannot reshape.
        empty = tf.cast(width == 0, tf.int32)
        token_ids = tf.pad(
            _checked(self.model, token_ids, inside), [(0, 0), (0, empty)]
        )
        limits = tf.minimum(_positive(max_new_tokens), context - lengths)
        prompts = Prompts(
            token_ids,
            lengths,
            limits,
            tf.constant(list(self.end_token_ids), tf.int32),
            tf.zeros((rows, 0)),
        )
        return search(self.model, self.settings, prompts, self.kernels())


def trace_logits(model: GPT, kernels: Callable[[], Kernels]) -> Any:
    """Traces `serving_default`: `token_ids` to `logits`."""

    def serve(token_ids: tf.Tensor) -> Tensors:
        inside = tf.ones_like(token_ids, tf.bool)
        token_ids = _checked(model, token_ids, inside)
        hidden, _ = prefill(model, token_ids, tf.shape(token_ids)[1], kernels())
        # Of sequences without tokens, the projection does not know how many there are.
        shape = tf.concat([tf.shape(token_ids), [model.embedding.vocabulary_size]], 0)
        return {"logits": tf.reshape(project(model, hidden), shape)}

    return trace(serve, _TOKEN_IDS)


def trace_generation(decoding: Decoding) -> Any:
    """Traces `generate` or, with several beams, `generate_beam`."""

    def run(
        token_ids: tf.Tensor, lengths: tf.Tensor, max_new_tokens: tf.Tensor
    ) -> Tensors:
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

    def run(text: tf.Tensor, max_new_tokens: tf.Tensor) -> Tensors:
        max_new_tokens = tf.minimum(_positive(max_new_tokens), context - 2)
        encoded = in_graph.encode_batch(text)
        lengths = tf.cast(encoded.row_lengths(), tf.int32)
        lengths = tf.minimum(lengths, context - max_new_tokens - separator)
        rows = tf.RaggedTensor.from_tensor(encoded.to_tensor(), lengths)
        if separator:
            close = tf.fill((tf.shape(text)[0], 1), separator_id)
            rows = tf.concat([rows, close], 1)
        token_ids = rows.to_tensor()
        lengths = tf.cast(rows.row_lengths(), tf.int32)
        # A text without tokens has no continuation. It is computed with one token, so
        # that it does not fail the batch, and its output is emptied.
        is_empty = lengths == 0
        missing = tf.cast(tf.shape(token_ids)[1] == 0, tf.int32)
        token_ids = tf.pad(token_ids, [(0, 0), (0, missing)])
        new = decoding.continue_prompts(
            token_ids, tf.maximum(lengths, 1), max_new_tokens
        )
        new = new._replace(counts=tf.where(is_empty, 0, new.counts))
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


def _checked(model: GPT, token_ids: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    """Refuses ids that are no token, and replaces padding, which may be any number.

    Without the check a look-up fails with an operation's name, or on GPUs gives zeros.

    Args:
        model: The model.
        token_ids: `(batch, width)`.
        inside: Which of them count, bool; the others are padding.
    """
    vocabulary = model.embedding.vocabulary_size
    is_token = (token_ids >= 0) & (token_ids < vocabulary)
    wrong = tf.boolean_mask(token_ids, inside & ~is_token)
    must = f"`token_ids` must be in [0, {vocabulary})."
    with _requiring(tf.size(wrong) == 0, must, wrong):
        return tf.where(inside, token_ids, 0)


def _positive(max_new_tokens: tf.Tensor) -> tf.Tensor:
    must = "`max_new_tokens` must be positive."
    with _requiring(tf.reduce_all(max_new_tokens > 0), must, max_new_tokens):
        return tf.identity(max_new_tokens)


def _requiring(condition: tf.Tensor, must: str, received: tf.Tensor) -> Any:
    """Returns a context whose operations run after a check, with a sentence."""
    check = tf.debugging.Assert(condition, [must, "Received:", received])
    return tf.control_dependencies([check])
