"""The next-token loss."""

from typing import Any

import tensorflow as tf

from spdf_keras.keras2 import keras


@keras.saving.register_keras_serializable("spdf_keras")
class NextTokenCrossentropy(keras.losses.Loss):
    """Cross-entropy of each label under the logits, in nats.

    Args:
        label_smoothing: Weight `e` of the uniform distribution: the loss is
            `(1 - e) * nll + e * mean over the vocabulary of -log p`, as in the
            LoRA recipe.

    Call arguments:
        y_true: Labels, `(batch, length)`.
        y_pred: Logits, `(batch, length, vocabulary_size)`.

    Example:
        >>> loss = NextTokenCrossentropy()
        >>> loss.call(tf.constant([[1]]), tf.zeros((1, 1, 4))).numpy().round(4)
        array([[1.3863]], dtype=float32)
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        kwargs.setdefault("name", "next_token_crossentropy")
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        labels = tf.cast(y_true, tf.int32)
        nll = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, y_pred)
        if not self.label_smoothing:
            return nll
        # This is mean(-log p) - nll, and needs no log-probabilities in memory.
        label_logits = tf.gather(y_pred, labels, batch_dims=2)
        excess = label_logits - tf.reduce_mean(y_pred, -1)
        return nll + self.label_smoothing * excess

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
