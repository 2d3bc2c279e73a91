"""What changes the logits before a token is chosen, and the choice of a random one.

`history` holds the tokens that each beam has added to its prompt, `(batch, beams,
max_new_tokens)`; `count` says how many of them there are. The prompt itself is never
looked at, as in the LoRA recipe.
"""

import tensorflow as tf

# No logit of a model is as far from zero.
_FARTHEST = 1e9


def penalise_repetition(
    logits: tf.Tensor, history: tf.Tensor, count: tf.Tensor, penalty: float
) -> tf.Tensor:
    """Makes tokens of the history less likely.

    A positive logit is divided by the penalty, a negative one multiplied; once, however
    often the token has occurred.

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
    # An infinite one, by a penalty that is far from 1, would be a ban or a certainty.
    values = tf.clip_by_value(values, -_FARTHEST, _FARTHEST)
    return tf.tensor_scatter_nd_update(logits, where, values)


def ban_repeated_ngrams(
    logits: tf.Tensor, history: tf.Tensor, count: tf.Tensor, size: int
) -> tf.Tensor:
    """Sets the logits of tokens to -inf that would complete an n-gram of the history.

    Args:
        logits: `(batch, beams, vocabulary_size)`.
        history: See the module.
        count: See the module.
        size: Tokens of an n-gram, at least 1.
    """
    # Window j is tokens j to j + size - 1 of the history; its last token is banned
    # where the others are the last ones of the history.
    windows = tf.maximum(tf.shape(history)[2] - size + 1, 0)
    shape = tf.concat([tf.shape(history)[:2], [windows]], 0)
    matches = tf.broadcast_to(tf.range(windows) + size <= count, shape)
    for index in range(size - 1):
        # A negative place stands for a history that is too short: nothing matches.
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
    """Draws a token of each row from what a filter leaves of its distribution.

    The draw is a function of `uniform` alone, so that a row's tokens do not depend on
    the rows beside it.

    Args:
        logits: `(rows, vocabulary_size)`.
        uniform: Random numbers in `[0, 1)`, `(rows,)`.
        temperature: The logits are divided by it; small is nearly greedy.
        top_k: Only the `top_k` likeliest tokens stay; 0 keeps all.
        top_p: Of these, only the fewest likeliest whose probability reaches `top_p`
            stay, at least one; 1 keeps all.

    Returns:
        Token ids, `(rows,)`, int32.

    Reference:
        [Holtzman et al., 2020](https://arxiv.org/abs/1904.09751) for `top_p`.
    """
    vocabulary_size = logits.shape[-1]
    # In float64, or rounding moves the borders of a large vocabulary.
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
    # Rounding may leave no sum above the last one.
    last = tf.reduce_sum(tf.cast(sums < sums[:, -1:], tf.int32), -1)
    index = tf.minimum(index, last)
    if token_ids is None:
        return index
    return tf.gather(token_ids, index, batch_dims=1)
