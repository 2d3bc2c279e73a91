"""Constraints that change the logits before a token is chosen, and the random choice.

`history` holds the tokens that each beam has added to its prompt, `(batch, beams,
max_new_tokens)`; `count` is their number. The constraints do not look at the prompt, as
in the LoRA recipe.
"""

import tensorflow as tf

# The logits of a model are smaller than this.
_FARTHEST = 1e9


def penalise_repetition(
    logits: tf.Tensor, history: tf.Tensor, count: tf.Tensor, penalty: float
) -> tf.Tensor:
    """Makes tokens of the history less likely.

    A positive logit is divided by the penalty and a negative one multiplied, once per
    token, however often the token has occurred.

    Args:
        logits: `(batch, beams, vocabulary_size)`.
        history: See the module.
        count: See the module.
        penalty: Above 1 discourages; 1 changes nothing.

    Reference:
        [Keskar et al., 2019](https://arxiv.org/abs/1909.05858), section 4.1.
    """
    used = tf.broadcast_to(tf.range(tf.shape(history)[2]) < count, tf.shape(history))
    where = _token_indices(history, used)
    values = tf.gather_nd(logits, where)
    values = tf.where(values < 0, values * penalty, values / penalty)
    # A penalty far from 1 could make a logit infinite: a ban, or a certain choice.
    values = tf.clip_by_value(values, -_FARTHEST, _FARTHEST)
    return tf.tensor_scatter_nd_update(logits, where, values)


def ban_repeated_ngrams(
    logits: tf.Tensor, history: tf.Tensor, count: tf.Tensor, size: int
) -> tf.Tensor:
    """Bans tokens that would repeat an n-gram of the history: their logits are -inf.

    Args:
        logits: `(batch, beams, vocabulary_size)`.
        history: See the module.
        count: See the module.
        size: Tokens of an n-gram, at least 1.
    """
    # Window j holds tokens j to j + size - 1 of the history. Its last token is banned
    # if its other tokens equal the end of the history.
    windows = tf.maximum(tf.shape(history)[2] - size + 1, 0)
    shape = tf.concat([tf.shape(history)[:2], [windows]], 0)
    matches = tf.broadcast_to(tf.range(windows) + size <= count, shape)
    for index in range(size - 1):
        # A negative position means that the history is too short, so nothing matches.
        place = tf.maximum(count - (size - 1) + index, 0)
        last = tf.gather(history, place, axis=2)[:, :, None]
        matches &= history[:, :, index : index + windows] == last
    banned = history[:, :, size - 1 : size - 1 + windows]
    where = _token_indices(banned, matches)
    never = tf.fill(tf.shape(where)[:1], tf.constant(-float("inf"), logits.dtype))
    return tf.tensor_scatter_nd_update(logits, where, never)


def _token_indices(token_ids: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Indices into the logits of the chosen tokens, `(number, 3)`."""
    where = tf.cast(tf.where(chosen), tf.int32)
    return tf.concat([where[:, :2], tf.gather_nd(token_ids, where)[:, None]], 1)


def draw(
    logits: tf.Tensor,
    uniform: tf.Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tf.Tensor:
    """Draws a token of each row from its filtered distribution.

    The draw depends on `uniform` alone, so a row's tokens do not depend on the other
    rows of the batch.

    Args:
        logits: `(rows, vocabulary_size)`.
        uniform: Random numbers in `[0, 1)`, `(rows,)`.
        temperature: The logits are divided by it; a small one is nearly greedy.
        top_k: Only the `top_k` likeliest tokens stay; 0 keeps all.
        top_p: Only the fewest likeliest of these tokens whose probabilities reach
            `top_p` stay, at least one; 1 keeps all.

    Returns:
        Token ids, `(rows,)`, int32.

    Reference:
        [Holtzman et al., 2020](https://arxiv.org/abs/1904.09751) for `top_p`.
    """
    vocabulary_size = logits.shape[-1]
    # In float32, rounding would move the bounds of a large vocabulary.
    token_ids, scaled = None, tf.cast(logits, tf.float64) / temperature
    if top_k or top_p < 1:
        kept = min(top_k or vocabulary_size, vocabulary_size)
        scaled, token_ids = tf.math.top_k(scaled, kept)
    probabilities = tf.nn.softmax(scaled)
    if top_p < 1:
        before = tf.cumsum(probabilities, axis=-1, exclusive=True)
        nothing = tf.zeros_like(probabilities)
        probabilities = tf.where(before < top_p, probabilities, nothing)
    sums = tf.cumsum(probabilities, axis=-1)
    reached = sums <= tf.cast(uniform, tf.float64)[:, None] * sums[:, -1:]
    index = tf.reduce_sum(tf.cast(reached, tf.int32), -1)
    # By rounding, the last sum may be below the random number.
    last = tf.reduce_sum(tf.cast(sums < sums[:, -1:], tf.int32), -1)
    index = tf.minimum(index, last)
    if token_ids is None:
        return index
    return tf.gather(token_ids, index, batch_dims=1)
