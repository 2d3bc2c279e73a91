"""Beam search, with the semantics of the LoRA recipe's script."""

from typing import NamedTuple

import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.model.decoding.cache import Branches
from spdf_keras.model.decoding.steps import (
    Continuations,
    Stepper,
    constrain,
    is_stuck,
    write,
)


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


def beam_search(
    stepper: Stepper, settings: DecodeConfig, first: tf.Tensor, branches: Branches
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
        scores = tf.where(is_stuck(logits), scores, -float("inf"))
        counts = tf.fill(tf.shape(scores), beams.count)
        return keep(beams, scores, beams.history, counts)

    def take(logits: tf.Tensor, beams: _Beams) -> _Beams:
        """Extends the beams by one token."""
        count = beams.count
        if settings.no_repeat_ngram_size:
            beams = keep_stuck(logits, beams)
        values, token_ids, norms = stepper.best(logits, num_beams)
        # If every token is banned the norm is -inf, and -inf - -inf would be NaN.
        values = tf.where(tf.math.is_inf(values), values, values - norms)
        sums = beams.scores[:, :, None] + values
        scores, places = tf.math.top_k(_flatten(sums), num_beams)
        parents = places // num_beams
        tokens = tf.gather(_flatten(token_ids), places, batch_dims=1)
        history = tf.gather(beams.history, parents, batch_dims=1)
        history = write(history, count, tokens)
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
        logits = constrain(logits, beams.history, beams.count, settings)
        return take(logits, beams), branches

    start = _Beams.start(tf.shape(first)[0], prompts.steps)
    beams = take(first[:, None], start)
    # The first beams have no parents, so each sees the prompt alone.
    beams = beams._replace(parents=tf.zeros_like(beams.parents))
    shapes = _Beams(*(x.shape for x in beams)), branches.shapes()
    beams, _ = tf.while_loop(may_improve, advance, (beams, branches), shapes)
    return Continuations(beams.best_history, beams.best_counts, beams.best_scores)


def _flatten(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, (tf.shape(x)[0], -1))
