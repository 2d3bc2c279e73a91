"""A key-value cache for beams: nothing that beams share is stored twice or moved.

A block receives the beams of a row side by side, in the place of the tokens of a
sequence, and each beam sees its own past through a mask. A prompt is thus kept once for
all of its beams, a block's products run over all beams at once, and a beam that takes
over another beam's past changes its mask, not the cache. Greedy decoding and sampling
use it with one beam.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from spdf_keras.model.block import Cache
from spdf_keras.model.decoding.passes import Kernels

# Number of steps whose keys and values are collected in a small tensor. Every step
# copies the small tensor instead of the whole cache; when it is full it is appended.
_JOIN_EVERY = 8


class Branches(NamedTuple):
    """The state of the cache between the steps of a decoding loop.

    Attributes:
        old: Keys and values of each block, `(batch, num_heads, slots, head_dim)`:
            the prompt, then `num_beams` slots for each step.
        recent: Keys and values of the last few steps, in the same form.
        allowed: Which of these slots each beam sees, bool, `(batch, num_beams,
            slots)`.
    """

    old: list[Cache]
    recent: list[Cache]
    allowed: tf.Tensor

    @classmethod
    def start(
        cls, caches: Sequence[Cache], lengths: tf.Tensor, num_beams: int
    ) -> "Branches":
        """Makes the state for `num_beams` beams per prompt.

        Args:
            caches: Keys and values of the prompts, from `prefill`.
            lengths: Tokens of each prompt, `(batch,)`; the rest of a row is padding.
            num_beams: Beams of each prompt.
        """
        caches = list(caches)
        allowed = tf.sequence_mask(lengths, tf.shape(caches[0][0])[2])
        return cls(caches, _emptied(caches), tf.repeat(allowed[:, None], num_beams, 1))

    def shapes(self) -> "Branches":
        """The shapes that stay constant in a loop."""
        free = [
            tuple(tf.TensorShape([None, k.shape[1], None, k.shape[3]]) for _ in "kv")
            for k, _ in self.old
        ]
        return Branches(free, free, tf.TensorShape([None, self.allowed.shape[1], None]))

    def step(
        self,
        model: Any,
        kernels: Kernels,
        token_ids: tf.Tensor,
        position: tf.Tensor,
        parents: tf.Tensor,
        step: tf.Tensor,
    ) -> tuple[tf.Tensor, "Branches"]:
        """Runs one more token of every beam.

        Args:
            model: The GPT.
            kernels: From `effective_kernels`.
            token_ids: `(batch, num_beams)`.
            position: Position of these tokens in each row, `(batch,)`.
            parents: Index of the beam of the last step that each beam continues,
                `(batch, num_beams)`.
            step: Number of earlier steps; a scalar.

        Returns:
            Hidden states `(batch, num_beams, hidden_dim)` after the final norm, and
            the branches with this step's slots.
        """
        old, recent = tf.cond(
            (step > 0) & (step % _JOIN_EVERY == 0),
            lambda: (_append(self.old, self.recent), _emptied(self.recent)),
            lambda: (self.old, self.recent),
        )
        num_beams = token_ids.shape[1]
        itself = tf.eye(num_beams, batch_shape=tf.shape(parents)[:1], dtype=tf.bool)
        inherited = tf.gather(self.allowed, parents, batch_dims=1)
        allowed = tf.concat([inherited, itself], -1)
        x, new = model.embedding(token_ids, position=position[:, None]), []
        for layer, own, *past in zip(model.blocks, kernels, old, recent, strict=True):
            x, cache = layer(
                x, kernels=own, past=past, allowed=allowed, return_cache=True
            )
            new.append(cache)
        hidden = model.final_norm(x)
        return hidden, Branches(old, _append(recent, new), allowed)

    def regroup(
        self,
        kept: tf.Tensor,
        caches: Sequence[Cache],
        lengths: tf.Tensor,
        sources: tf.Tensor,
        width: tf.Tensor,
    ) -> "Branches":
        """Drops rows and appends prompts, where rows start and end at different steps.

        Afterwards the past of each row ends in the last slot, and slots in front that
        no row uses are gone. All rows have one beam.

        Args:
            kept: Rows that stay, `(kept,)`.
            caches: Keys and values of prompts, from `prefill`.
            lengths: Tokens of the prompt of each new row, `(new,)`.
            sources: Index of this prompt in `caches`, `(new,)`.
            width: Slots afterwards, at least the tokens of each row; a scalar.

        Returns:
            The branches of the kept rows, then of the new ones.
        """
        # A negative place is padding at the left of a shorter prompt.
        places = tf.range(width) - width + lengths[:, None]
        filled, places = places >= 0, tf.maximum(places, 0)

        def both(own: tf.Tensor, more: tf.Tensor) -> tf.Tensor:
            more = tf.gather(tf.gather(more, sources), places, axis=2, batch_dims=1)
            return tf.concat([_last(tf.gather(own, kept), width), more], 0)

        old = [
            (both(key, more_key), both(value, more_value))
            for (key, value), (more_key, more_value) in zip(
                _append(self.old, self.recent), caches, strict=True
            )
        ]
        allowed = _last(tf.gather(self.allowed, kept), width)
        allowed = tf.concat([allowed, filled[:, None]], 0)
        return Branches(old, _emptied(old), allowed)


def _append(first: Sequence[Cache], second: Sequence[Cache]) -> list[Cache]:
    return [
        (tf.concat([k, more_k], 2), tf.concat([v, more_v], 2))
        for (k, v), (more_k, more_v) in zip(first, second, strict=True)
    ]


def _emptied(caches: Sequence[Cache]) -> list[Cache]:
    return [(key[:, :, :0], value[:, :, :0]) for key, value in caches]


def _last(x: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Returns the last `width` entries of axis 2, with zeros in front of fewer."""
    missing = width - tf.shape(x)[2]
    after = [[0, 0]] * (x.shape.rank - 3)
    padding = tf.stack([[0, 0], [0, 0], [tf.maximum(missing, 0), 0], *after])
    return tf.pad(x[:, :, tf.maximum(-missing, 0) :], padding)
