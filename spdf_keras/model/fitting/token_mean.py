"""The mean over tokens that a GPT trains on, whatever its loss."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.model.fitting.loss import NextTokenCrossentropy


class TokenMean:
    """The compiled loss of a GPT: a mean over tokens, not over batches.

    It stands where Keras keeps its `LossesContainer`. So `compute_loss`, and with it
    Keras' own `train_step` in a subclass, computes this loss and logs it.

    Tokens count by `sample_weight`, over all replicas. A label that the loss ignores
    (`ignore_class`) does not count. Losses of `add_loss` and regularizers are added.

    Args:
        loss: From `one_loss`.
    """

    # Keras asks for these two before it saves or loads a model.
    built = True
    _user_loss_weights = None

    def __init__(self, loss: Any) -> None:
        self._user_losses = loss
        self._compute = getattr(loss, "call", loss)
        self._tracker = keras.metrics.Mean(name="loss")
        self.checks_labels, self.ignored_label = _label_rule(loss)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The mean of the loss since the start of the epoch, as Keras logs it."""
        return [self._tracker]

    def build(self, y_pred: Any) -> None:
        """Does nothing; Keras calls it when it loads a model."""

    def reset_state(self) -> None:
        """Starts a new mean."""
        self._tracker.reset_state()

    def __call__(
        self,
        y_true: tf.Tensor,
        y_pred: tf.Tensor,
        sample_weight: tf.Tensor | None = None,
        regularization_losses: Sequence[tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """This replica's part of the loss, which it also logs.

        Args:
            y_true: Labels, `(batch, length)`.
            y_pred: Logits, `(batch, length, vocabulary_size)`.
            sample_weight: `(batch,)`, `(batch, 1)` or `(batch, length)`.
            regularization_losses: Scalars to add.
        """
        shares, total = self.shares(y_true, sample_weight)
        losses = self.per_token(y_true, y_pred, sample_weight)
        mask = self.own_mask(losses)
        if mask is not None:
            shares *= tf.cast(mask, shares.dtype)
            kept = add_up(tf.reduce_sum(shares))
            shares, total = tf.math.divide_no_nan(shares, kept), total * kept
        loss = tf.reduce_sum(shares * losses)
        if regularization_losses:
            loss += added(regularization_losses)
        self.track(loss, total)
        return loss

    def of_part(
        self,
        labels: tf.Tensor,
        logits: tf.Tensor,
        shares: tf.Tensor,
        sample_weight: tf.Tensor | None,
        regularization_losses: Sequence[tf.Tensor],
        parts: Any,
    ) -> tf.Tensor:
        """The part of a micro-batch, not logged; the parts add up to the loss.

        Args:
            labels: Its labels.
            logits: Its logits.
            shares: Its part of the `shares` of all tokens.
            sample_weight: Its weights; see `__call__`.
            regularization_losses: See `__call__`.
            parts: How many micro-batches there are.
        """
        losses = self.per_token(labels, logits, sample_weight)
        if self.own_mask(losses) is not None:
            raise InputError(
                "`micro_batches` must be 1 with a loss that leaves out labels by a "
                "rule of its own. Received: more. Take "
                "keras.losses.SparseCategoricalCrossentropy(ignore_class=...)."
            )
        loss = tf.reduce_sum(shares * losses)
        if regularization_losses:
            loss += added(regularization_losses) / tf.cast(parts, tf.float32)
        return loss

    def shares(
        self, labels: tf.Tensor, sample_weight: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Token weights that add up to 1 over the replicas, and their former sum."""
        if sample_weight is None:
            shape = tf.shape(labels)
            weights = tf.ones(shape if labels.shape.rank == 2 else shape[:2])
        else:
            weights = token_weights(sample_weight, labels)
        if self.ignored_label is not None:
            counts = tf.not_equal(tf.cast(labels, tf.int64), self.ignored_label)
            weights *= tf.cast(counts, weights.dtype)
        total = add_up(tf.reduce_sum(weights))
        return tf.math.divide_no_nan(weights, total), total

    def per_token(
        self, labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None
    ) -> tf.Tensor:
        """The loss of each token, `(batch, length)`."""
        if sample_weight is not None:
            labels = labels_that_count(labels, sample_weight)
        losses = tf.convert_to_tensor(self._compute(labels, logits))
        rank = losses.shape.rank
        if rank in (0, 1) and sample_weight is None:
            # A mean of its own: right as long as all tokens count the same.
            return losses[:, None] if rank else losses
        if rank not in (2, None):
            raise InputError(
                "`loss` must return one number per token, (batch, length), where there "
                f"is a sample_weight. Received: shape {tuple(losses.shape)}. Take the "
                "mean over tokens out of it: the model does that, with the weights."
            )
        return losses

    def own_mask(self, losses: tf.Tensor) -> tf.Tensor | None:
        """Tokens that the loss has counted, if it is not known from the labels."""
        if self.ignored_label is not None:
            return None
        return getattr(losses, "_keras_mask", None)

    def track(self, loss: tf.Tensor, total: tf.Tensor) -> None:
        """Adds this replica's part of a step's loss, of `total` tokens, to the mean."""
        # The parts' numerators add up.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._tracker.update_state(loss * replicas, sample_weight=total / replicas)


def one_loss(loss: Any, loss_weights: Any = None) -> Any:
    """The loss that `compile` was given, or the default one.

    Raises:
        InputError: If there are several, or weights of them, or it expects
            probabilities.
    """
    argument = loss
    several = isinstance(loss, list | tuple | dict) and "class_name" not in loss
    if several:
        values = list(loss.values() if isinstance(loss, dict) else loss)
        loss = values[0] if len(values) == 1 else None
    if loss_weights or (loss is None and several):
        what = f"{loss_weights=}" if loss_weights else f"loss={argument}"
        raise InputError(
            "`loss` must be one loss, without `loss_weights`: a GPT has one output. "
            f"Received: {what}. Add the losses in one function of (labels, logits)."
        )
    loss = keras.losses.get(loss) if loss is not None else NextTokenCrossentropy()
    functions = (
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.categorical_crossentropy,
    )
    objects = (
        keras.losses.SparseCategoricalCrossentropy,
        keras.losses.CategoricalCrossentropy,
    )
    as_object = isinstance(loss, objects) and not loss.get_config()["from_logits"]
    if as_object or loss in functions:
        raise InputError(
            "`loss` must be a loss of logits, which the model returns. Received: "
            f"{getattr(loss, 'name', None) or loss.__name__} of probabilities. Take "
            "keras.losses.SparseCategoricalCrossentropy(from_logits=True), or leave "
            "`loss` out."
        )
    return loss


def token_weights(sample_weight: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """`sample_weight`, of sequences or tokens, as float32 `(batch, length)`.

    Example:
        >>> token_weights(tf.constant([1, 2]), tf.zeros((2, 3))).numpy()
        array([[1., 1., 1.],
               [2., 2., 2.]], dtype=float32)

    Raises:
        InputError: If the shape fits neither.
    """
    weights = tf.cast(sample_weight, tf.float32)
    if weights.shape.rank is None:
        weights = tf.reshape(weights, (tf.shape(labels)[0], -1))
    check_weight_shape(weights.shape, labels.shape)
    if weights.shape.rank == 1:
        weights = weights[:, None]
    return tf.broadcast_to(weights, tf.shape(labels)[:2])


def check_weight_shape(weights: Any, labels: Any) -> None:
    """Refuses a shape of `sample_weight`; a size that is not known is None."""
    sizes, must = tuple(weights), tuple(labels)[:2]
    rest = must[1:] if sizes[1:] not in ((), (1,)) else sizes[1:]
    pairs = zip(sizes, (*must[:1], *rest), strict=False)
    known = [pair for pair in pairs if None not in pair]
    if len(sizes) not in (1, 2) or any(a != b for a, b in known):
        raise InputError(
            "`sample_weight` must be (batch,), (batch, 1) or (batch, length), where "
            f"labels are {must}. Received: shape {sizes}."
        )


def labels_that_count(labels: tf.Tensor, sample_weight: tf.Tensor) -> tf.Tensor:
    """The labels, with 0 for those that count nothing: they may be any number."""
    if labels.shape.rank != 2:
        return labels
    counts = tf.not_equal(token_weights(sample_weight, labels), 0)
    return tf.where(counts, labels, tf.zeros_like(labels))


def added(losses: Sequence[tf.Tensor]) -> tf.Tensor:
    """This replica's part of the losses that `add_loss` and regularizers gave."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return tf.add_n([tf.cast(loss, tf.float32) for loss in losses]) / replicas


def add_up(x: tf.Tensor) -> tf.Tensor:
    """The sum over replicas; `x` itself where there is one."""
    return tf.distribute.get_replica_context().all_reduce("sum", x)


def _label_rule(loss: Any) -> tuple[bool, int | None]:
    """Whether labels must be token ids, and the label that the loss ignores."""
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return True, loss.get_config()["ignore_class"]
    return isinstance(loss, NextTokenCrossentropy), None
