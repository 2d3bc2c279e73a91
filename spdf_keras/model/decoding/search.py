"""The decoding loops, each one graph: greedy and random choice, and beam search."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.model.decoding.cache import Branches
from spdf_keras.model.decoding.constraints import (
    ban_repeated_ngrams,
    draw,
    penalise_repetition,
)
from spdf_keras.model.decoding.passes import (
    Kernels,
    effective_kernels,
    prefill,
    project,
)


class Prompts(NamedTuple):
    """A batch of prompts.

    Attributes:
        token_ids: `(batch, width)`, padded at the right, int32.
        lengths: Tokens of each prompt, `(batch,)`, int32.
        limits: Largest number of new tokens, at least 1, `(batch,)`, int32.
        ends: Tokens that end a continuation, `(number,)`, int32.
        uniform: Random numbers in `[0, 1)` that choose the tokens, `(batch,
            max_new_tokens)`; only read when sampling.
    """

    token_ids: tf.Tensor
    lengths: tf.Tensor
    limits: tf.Tensor
    ends: tf.Tensor
    uniform: tf.Tensor

    @classmethod
    def signature(cls) -> "Prompts":
        """Specs with free sizes, since a trace costs more than a batch of decoding."""
        matrix, vector = (tf.TensorSpec([None] * rank, tf.int32) for rank in (2, 1))
        uniform = tf.TensorSpec([None, None], tf.float32)
        return cls(matrix, vector, vector, vector, uniform)


class Continuations(NamedTuple):
    """The result of a decoding loop for each prompt.

    Attributes:
        token_ids: `(batch, steps)`.
        counts: Number of tokens of the continuation without its end token,
            `(batch,)`; -1 if the model's logits are not finite.
        scores: `(batch,)`. For a beam search, the sum of log-probabilities over
            length ** length_penalty, both with the end token; else zeros.
    """

    token_ids: tf.Tensor
    counts: tf.Tensor
    scores: tf.Tensor


def search_function(
    model: Any, settings: DecodeConfig
) -> Callable[[Prompts], Continuations]:
    """Returns the compiled loop, which reads the model's weights at each call."""

    def run(prompts: Prompts) -> Continuations:
        kernels = effective_kernels(model, skip_zeros=True)
        return search(model, settings, prompts, kernels)

    signature = [Prompts.signature()]
    return tf.function(run, input_signature=signature, autograph=False)


def search(
    model: Any, settings: DecodeConfig, prompts: Prompts, kernels: Kernels
) -> Continuations:
    """Continues prompts, as a part of a graph.

    Args:
        model: The GPT.
        settings: How to decode; `max_new_tokens`, `batch_size` and `seed` are unused.
        prompts: The batch of prompts.
        kernels: From `effective_kernels`.
    """
    loop = _beam_search if settings.num_beams > 1 else _choose_one_by_one
    width = tf.shape(prompts.token_ids)[1]
    hidden, caches = prefill(model, prompts.token_ids, width, kernels)
    last = tf.gather(hidden, prompts.lengths - 1, batch_dims=1)[:, None]
    branches = Branches.start(caches, prompts.lengths, settings.num_beams)
    first = project(model, last)[:, 0]
    found = loop(_Stepper(model, kernels, prompts), settings, first, branches)
    is_finite = tf.reduce_all(tf.math.is_finite(first), -1)
    return found._replace(counts=tf.where(is_finite, found.counts, -1))


class _Stepper(NamedTuple):
    """The part of a decoding step that both loops share."""

    model: Any
    kernels: Kernels
    prompts: Prompts

    def logits(
        self,
        token_ids: tf.Tensor,
        parents: tf.Tensor,
        count: tf.Tensor,
        branches: Branches,
    ) -> tuple[tf.Tensor, Branches]:
        """Returns the logits after `count` tokens, `(batch, beams, vocabulary)`."""
        context = self.model.embedding.max_sequence_length
        # A row that has reached its limit keeps decoding; its output is ignored.
        position = tf.minimum(self.prompts.lengths + count - 1, context - 1)
        hidden, branches = branches.step(
            self.model, self.kernels, token_ids, position, parents, count - 1
        )
        return project(self.model, hidden), branches

    def is_end(self, token_ids: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(token_ids[..., None] == self.prompts.ends, -1)


def _constrain(
    logits: tf.Tensor, history: tf.Tensor, count: tf.Tensor, settings: DecodeConfig
) -> tf.Tensor:
    if settings.repetition_penalty != 1:
        penalty = settings.repetition_penalty
        logits = penalise_repetition(logits, history, count, penalty)
    if settings.no_repeat_ngram_size:
        size = settings.no_repeat_ngram_size
        logits = ban_repeated_ngrams(logits, history, count, size)
    return logits


def _is_stuck(logits: tf.Tensor) -> tf.Tensor:
    """Whether every token is banned; the continuation then ends without end token."""
    return tf.reduce_max(logits, -1) == -float("inf")


def _write(history: tf.Tensor, count: tf.Tensor, token_ids: tf.Tensor) -> tf.Tensor:
    """Returns the history with `token_ids` at position `count` of each beam."""
    here = tf.range(tf.shape(history)[2]) == count
    return tf.where(here, token_ids[:, :, None], history)


def _choose_one_by_one(
    stepper: _Stepper, settings: DecodeConfig, first: tf.Tensor, branches: Branches
) -> Continuations:
    prompts = stepper.prompts
    batch, steps = tf.shape(first)[0], tf.reduce_max(prompts.limits)
    parents = tf.zeros((batch, 1), tf.int32)

    def choose(logits: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        if not settings.sample:
            return tf.argmax(logits, -1, output_type=tf.int32)
        uniform = prompts.uniform[:, count]
        return draw(
            logits, uniform, settings.temperature, settings.top_k, settings.top_p
        )

    def take(
        logits: tf.Tensor, count: tf.Tensor, history: tf.Tensor, counts: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Takes one more token; `counts` is -1 for rows that go on."""
        tokens = choose(logits, count)[:, None]
        history = _write(history, count, tokens)
        ends, full = stepper.is_end(tokens)[:, 0], count + 1 >= prompts.limits
        if settings.no_repeat_ngram_size:
            ends |= _is_stuck(logits)
        ended = tf.where(ends, count, tf.where(full, count + 1, -1))
        return count + 1, history, tf.where(counts < 0, ended, counts), tokens

    def advance(
        count: tf.Tensor,
        history: tf.Tensor,
        counts: tf.Tensor,
        tokens: tf.Tensor,
        branches: Branches,
    ) -> Any:
        logits, branches = stepper.logits(tokens, parents, count, branches)
        logits = _constrain(logits, history, count, settings)[:, 0]
        return *take(logits, count, history, counts), branches

    history = tf.fill((batch, 1, steps), -1)
    start = take(first, tf.constant(0), history, tf.fill((batch,), -1))
    _, history, counts, *_ = tf.while_loop(
        lambda count, history, counts, *_: tf.reduce_any(counts < 0),
        advance,
        (*start, branches),
        (*(x.shape for x in start), branches.shapes()),
    )
    return Continuations(history[:, 0], counts, tf.zeros((batch,)))


class _Beams(NamedTuple):
    """The state of a beam search; `best_*` is the best finished continuation."""

    count: tf.Tensor
    tokens: tf.Tensor
    parents: tf.Tensor
    scores: tf.Tensor
    history: tf.Tensor
    best_scores: tf.Tensor
    best_history: tf.Tensor
    best_counts: tf.Tensor

    @classmethod
    def start(cls, batch: tf.Tensor, steps: tf.Tensor) -> "_Beams":
        """Starts with one empty beam per row."""
        row = tf.fill((batch,), -1)
        beam = row[:, None]
        history = tf.fill((batch, 1, steps), -1)
        nothing = tf.fill((batch,), -float("inf"))
        zero = tf.zeros((batch, 1))
        return cls(
            tf.constant(0), beam, beam, zero, history, nothing, history[:, 0], row
        )


def _beam_search(
    stepper: _Stepper, settings: DecodeConfig, first: tf.Tensor, branches: Branches
) -> Continuations:
    """Runs the beam search of the LoRA recipe's script.

    Each step keeps the `num_beams` best of all beams times the vocabulary. A beam that
    takes an end token is removed, and its continuation is kept if it is the best so
    far. At the limit, beams without an end token compete too; so does a beam whose
    every next token is banned, for which the script gives no number. The script always
    runs to the limit. Here a row stops as soon as no beam can beat its best
    continuation, which changes no result.
    """
    num_beams, penalty = settings.num_beams, settings.length_penalty
    prompts = stepper.prompts
    limits = tf.cast(prompts.limits, tf.float32)

    def keep(
        beams: _Beams, scores: tf.Tensor, history: tf.Tensor, counts: tf.Tensor
    ) -> _Beams:
        """Keeps the best of some continuations if it is its row's best so far."""
        index = tf.argmax(scores, 1, output_type=tf.int32)
        score = tf.gather(scores, index, batch_dims=1)
        better = score > beams.best_scores
        found = tf.gather(history, index, batch_dims=1)
        count = tf.gather(counts, index, batch_dims=1)
        return beams._replace(
            best_scores=tf.where(better, score, beams.best_scores),
            best_history=tf.where(better[:, None], found, beams.best_history),
            best_counts=tf.where(better, count, beams.best_counts),
        )

    def keep_stuck(logits: tf.Tensor, beams: _Beams) -> _Beams:
        """Keeps continuations that end because nothing may follow them."""
        length = tf.cast(tf.maximum(beams.count, 1), tf.float32)
        scores = beams.scores / length**penalty
        scores = tf.where(_is_stuck(logits), scores, -float("inf"))
        counts = tf.fill(tf.shape(scores), beams.count)
        return keep(beams, scores, beams.history, counts)

    def take(logits: tf.Tensor, beams: _Beams) -> _Beams:
        """Extends the beams by one token."""
        count = beams.count
        if settings.no_repeat_ngram_size:
            beams = keep_stuck(logits, beams)
        values, token_ids = tf.math.top_k(logits, num_beams)
        norms = tf.reduce_logsumexp(logits, -1, keepdims=True)
        # If every token is banned the norm is -inf, and -inf - -inf would be NaN.
        values = tf.where(tf.math.is_inf(values), values, values - norms)
        sums = beams.scores[:, :, None] + values
        scores, places = tf.math.top_k(_flatten(sums), num_beams)
        parents = places // num_beams
        tokens = tf.gather(_flatten(token_ids), places, batch_dims=1)
        history = tf.gather(beams.history, parents, batch_dims=1)
        history = _write(history, count, tokens)
        ends = stepper.is_end(tokens)
        finished = ends | (count + 1 >= prompts.limits)[:, None]
        length = tf.cast(count + 1, tf.float32)
        candidates = tf.where(finished, scores / length**penalty, -float("inf"))
        counts = count + 1 - tf.cast(ends, tf.int32)
        beams = keep(beams, candidates, history, counts)
        return beams._replace(
            count=count + 1,
            tokens=tokens,
            parents=parents,
            scores=tf.where(finished, -float("inf"), scores),
            history=history,
        )

    def may_improve(beams: _Beams, branches: Branches) -> tf.Tensor:
        # Sums only fall, so the best score that a beam can reach is its current sum
        # over the longest length (over the shortest, if the penalty is negative).
        length = limits if penalty >= 0 else tf.cast(beams.count, tf.float32)
        reach = tf.reduce_max(beams.scores, 1) / length**penalty
        return tf.reduce_any(reach > beams.best_scores)

    def advance(beams: _Beams, branches: Branches) -> tuple[_Beams, Branches]:
        logits, branches = stepper.logits(
            beams.tokens, beams.parents, beams.count, branches
        )
        logits = _constrain(logits, beams.history, beams.count, settings)
        return take(logits, beams), branches

    start = _Beams.start(tf.shape(first)[0], tf.reduce_max(prompts.limits))
    beams = take(first[:, None], start)
    # The first beams have no parents, so each sees the prompt alone.
    beams = beams._replace(parents=tf.zeros_like(beams.parents))
    shapes = _Beams(*(x.shape for x in beams)), branches.shapes()
    beams, _ = tf.while_loop(may_improve, advance, (beams, branches), shapes)
    return Continuations(beams.best_history, beams.best_counts, beams.best_scores)


def _flatten(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, (tf.shape(x)[0], -1))
