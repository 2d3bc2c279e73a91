"""Token and position embeddings; the token table is also the output projection."""

from typing import Any

import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras


@keras.saving.register_keras_serializable("spdf_keras")
class TiedEmbedding(keras.layers.Layer):
    """Embeds tokens and positions, and projects back to the vocabulary.

    Args:
        vocabulary_size: Rows of the token table.
        hidden_dim: Columns of both tables.
        max_sequence_length: Rows of the position table.
        seed: Seed of both initial tables.

    Call arguments:
        inputs: Token ids, `(batch, length)`; with `reverse`, hidden states,
            `(batch, length, hidden_dim)`.
        position: Position of each token, `(batch, length)`; 0, 1, ... if None.
        reverse: Return the logits of hidden states instead,
            `(batch, length, vocabulary_size)`. There is no bias.
    """

    def __init__(
        self,
        vocabulary_size: int,
        hidden_dim: int,
        max_sequence_length: int,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.max_sequence_length = max_sequence_length
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        rows = {"token": self.vocabulary_size, "position": self.max_sequence_length}
        self.token_table, self.position_table = (
            self.add_weight(
                name=f"{name}/embeddings",
                shape=(size, self.hidden_dim),
                initializer=keras.initializers.TruncatedNormal(
                    stddev=0.02, seed=self.seed + index
                ),
            )
            for index, (name, size) in enumerate(rows.items())
        )
        super().build(input_shape)

    def call(
        self,
        inputs: tf.Tensor,
        position: tf.Tensor | None = None,
        reverse: bool = False,
    ) -> tf.Tensor:
        # Both uses read one dense tensor. The gradients of the gather and of the
        # product are then added densely, and the clipping norm is right.
        tokens = tf.convert_to_tensor(self.token_table)
        if reverse:
            flat = tf.reshape(inputs, (-1, self.hidden_dim))
            logits = tf.matmul(flat, tokens, transpose_b=True)
            length = inputs.shape[1] or tf.shape(inputs)[1]
            return tf.reshape(logits, (-1, length, self.vocabulary_size))
        positions = tf.convert_to_tensor(self.position_table)
        if position is not None:
            return tf.gather(tokens, inputs) + tf.gather(positions, position)
        return tf.gather(tokens, inputs) + positions[: self._checked_length(inputs)]

    def _checked_length(self, token_ids: tf.Tensor) -> Any:
        must = f"at most max_sequence_length={self.max_sequence_length}"
        way_out = "Cut the sequences, or build a model with a longer context."
        length = token_ids.shape[1]
        if length is None:
            length = tf.shape(token_ids)[1]
            message = f"`token_ids` must be {must} long. {way_out}"
            check = tf.debugging.assert_less_equal(
                length, self.max_sequence_length, message=message
            )
            with tf.control_dependencies([check] if check is not None else []):
                return tf.identity(length)
        if length > self.max_sequence_length:
            raise InputError(
                f"`token_ids` must be {must} long. Received: length {length}. {way_out}"
            )
        return length

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "hidden_dim": self.hidden_dim,
            "max_sequence_length": self.max_sequence_length,
            "seed": self.seed,
        }
