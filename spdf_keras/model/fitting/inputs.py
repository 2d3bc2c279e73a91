"""Checks the data of `fit`, `evaluate` and `predict`, and makes it (batch, length).

Arrays are checked before the first step. Batches of a dataset, a generator or a
sequence are checked one by one on their way to the step. The step itself cannot check
them: XLA and GPUs go on computing with ids that are out of range.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.model.fitting.rows import is_on_disk, is_sequence, only_tensor, rows_of
from spdf_keras.model.fitting.token_mean import check_weight_shape

_UNEQUAL = (
    "Each sequence must have as many labels, and weights, as it has token ids. "
    "Received: others."
)


@dataclass(frozen=True)
class InputRules:
    """The data that a model takes.

    Attributes:
        context: The longest sequence.
        vocabulary: Token ids are below it.
        trains: Whether labels must be there.
        checks_labels: Whether labels must be token ids, where they count.
        ignored_label: A label that the loss ignores.
    """

    context: int
    vocabulary: int
    trains: bool = True
    checks_labels: bool = True
    ignored_label: int | None = None

    def data(self, x: Any) -> Any:
        """Returns a dataset, generator or sequence that checks each batch, or `x`."""
        if isinstance(x, tf.data.Dataset):
            return self._dataset(x)
        if isinstance(x, keras.utils.Sequence) or is_sequence(x):
            return _CheckedSequence(x, self)
        spread = isinstance(x, tf.distribute.DistributedIterator)
        if hasattr(x, "__next__") and not spread:
            return (self.unpacked(batch) for batch in x)
        return x

    def unpacked(self, data: Any) -> tuple[Any, ...]:
        """A checked batch of `x`, `(x, labels)` or `(x, labels, sample_weight)`."""
        return _as_batch(*self.arrays(*keras.utils.unpack_x_y_sample_weight(data)))

    def _dataset(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        spec = dataset.element_spec
        if self.trains and not (isinstance(spec, tuple) and len(spec) in (2, 3)):
            raise InputError(
                "A GPT trains on a dataset of (token_ids, labels) or (token_ids, "
                f"labels, sample_weight). Received: elements of {spec}."
            )

        @tf.autograph.experimental.do_not_convert
        def check(*batch: Any) -> tuple[Any, ...]:
            return _as_batch(*self._tensors(*batch))

        # Prefetching keeps the check out of the step's time.
        return dataset.map(check).prefetch(1)

    def _tensors(self, x: Any, labels: Any = None, weights: Any = None) -> Any:
        """The batch of a dataset, in its graph: `(x, labels, sample_weight)`."""
        x, labels, weights = map(only_tensor, (x, labels, weights))
        if not isinstance(x, tf.RaggedTensor) and not isinstance(
            labels, tf.RaggedTensor
        ):
            return self._checked(x, labels, weights)
        both = isinstance(x, tf.RaggedTensor) and isinstance(labels, tf.RaggedTensor)
        self._check_unpadded(both)
        lengths = x.row_lengths()
        _require(tf.reduce_all(tf.equal(lengths, labels.row_lengths())), _UNEQUAL)
        counts = tf.sequence_mask(lengths, dtype=tf.float32)
        if isinstance(weights, tf.RaggedTensor):
            _require(tf.reduce_all(tf.equal(lengths, weights.row_lengths())), _UNEQUAL)
            weights = weights.to_tensor()
        if weights is not None:
            weights = tf.cast(weights, tf.float32)
            counts *= weights[:, None] if weights.shape.rank == 1 else weights
        return self._checked(x.to_tensor(), labels.to_tensor(), counts)

    def arrays(self, x: Any, labels: Any = None, weights: Any = None) -> Any:
        """Data in memory: `(x, labels, sample_weight)`."""
        if self.trains and labels is None:
            raise InputError(
                "A GPT trains on `token_ids` and `labels`: the same tokens, one place "
                f"further. Received: x of type {type(x).__name__}, and no labels."
            )
        x, lengths = rows_of("token_ids", x)
        labels, label_lengths = rows_of("labels", labels)
        weights, weight_lengths = rows_of("sample_weight", weights)
        if lengths is not None or label_lengths is not None:
            self._check_unpadded(lengths is not None)
            assert lengths is not None
            if label_lengths is None:
                label_lengths = np.full(len(labels), labels.shape[-1])
            counts = (np.arange(x.shape[1]) < lengths[:, None]).astype(np.float32)
            same = np.array_equal(lengths, label_lengths)
            if weight_lengths is not None:
                same = same and np.array_equal(lengths, weight_lengths)
            _require(same, _UNEQUAL)
            if weights is not None:
                check_weight_shape(weights.shape, x.shape)
                counts *= weights[:, None] if weights.ndim == 1 else weights
            weights = counts
        return self._checked(x, labels, weights)

    def _check_unpadded(self, both: bool) -> None:
        if not self.trains or not both:
            raise InputError(
                "Rows of several lengths must be given for token_ids and labels both, "
                "and not to predict. Received: rows of several lengths. Pad them at "
                "the right, such as with `ragged.to_tensor()`."
            )

    def _checked(self, x: Any, labels: Any, weights: Any) -> tuple[Any, Any, Any]:
        x = self._ids(x)
        if labels is not None and self.trains:
            if weights is not None:
                weights = self._weights(weights, labels)
            labels = self._labels(x, labels, weights)
        return x, labels, weights

    def _ids(self, x: Any) -> Any:
        x = _table("token_ids", x)
        must = f"`token_ids` must be at most max_sequence_length={self.context} long."
        way_out = "Cut the sequences, or build a model with a longer context."
        length = x.shape[1]
        if length is None:
            length = tf.shape(x)[1]
        text = f"{must} Received: length {{}}. {way_out}"
        _require(length <= self.context, text, length)
        _check_range(
            "token_ids", x, self.vocabulary, "Take the tokenizer of the model."
        )
        return x

    def _labels(self, x: Any, labels: Any, weights: Any) -> Any:
        if self.checks_labels:
            labels = _table("labels", labels)
        must, sizes = tuple(x.shape), tuple(labels.shape)[:2]
        text = f"`labels` must be {{}}, as token_ids are. Received: shape {sizes}."
        pairs = zip(must, sizes, strict=False)
        known = all(a == b for a, b in pairs if None not in (a, b))
        _require(len(sizes) == 2 and known, text, must)
        if None in (*must, *sizes):
            same = tf.reduce_all(tf.equal(tf.shape(x), tf.shape(labels)[:2]))
            text = "`labels` must be {}, as token_ids are. Received: {}."
            _require(same, text, tf.shape(x), tf.shape(labels))
        if self.checks_labels:
            way_out = (
                "Give a sample_weight of 0 where a label is to be ignored, or a Keras "
                "loss with ignore_class."
            )
            counts = _counted(labels, weights, self.ignored_label)
            _check_range("labels", labels, self.vocabulary, way_out, counts)
        return labels

    def _weights(self, weights: Any, labels: Any) -> Any:
        is_tensor = isinstance(weights.shape, tf.TensorShape)
        if is_tensor and weights.shape.rank is None:
            return weights  # the step reshapes them to a matrix
        check_weight_shape(weights.shape, labels.shape)
        if not is_tensor:
            return weights
        sizes, must = tf.shape(weights), tf.shape(labels)[:2]
        fits = tf.equal(sizes[0], must[0])
        if weights.shape.rank == 2:
            fits &= tf.equal(sizes[1], must[1]) | tf.equal(sizes[1], 1)
        text = (
            "`sample_weight` must be (batch,), (batch, 1) or (batch, length), "
            "where labels are {}. Received: shape {}."
        )
        with tf.control_dependencies([_require(fits, text, must, sizes)]):
            return tf.identity(weights)


class _CheckedSequence(keras.utils.Sequence):
    """A sequence of checked batches, also of Keras 3's `PyDataset`."""

    def __init__(self, sequence: Any, rules: InputRules) -> None:
        self._sequence, self._rules = sequence, rules

    def __len__(self) -> int:
        return len(self._sequence)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self._rules.unpacked(self._sequence[index])

    def on_epoch_end(self) -> None:
        getattr(self._sequence, "on_epoch_end", lambda: None)()


def _as_batch(x: Any, labels: Any, weights: Any) -> tuple[Any, ...]:
    if labels is None:
        return (x,)
    return (x, labels) if weights is None else (x, labels, weights)


def _table(name: str, x: Any) -> Any:
    """Returns `x` if it holds whole numbers, `(batch, length)`."""
    dtype = getattr(x, "dtype", None)
    kind = tf.as_dtype(dtype) if dtype is not None else tf.string
    if not (kind.is_integer or kind.is_floating) or isinstance(x, tf.SparseTensor):
        raise InputError(
            f"`{name}` must be integers. Received: {type(x).__name__} of {kind.name}. "
            "Encode text with the tokenizer first."
        )
    if isinstance(x.shape, tf.TensorShape) and x.shape.rank is None:
        x = tf.ensure_shape(x, (None, None))
    if len(x.shape) != 2:
        raise InputError(
            f"`{name}` must be (batch, length). Received: shape {tuple(x.shape)}. "
            "Call `dataset.batch(...)` first, or write one sequence as [[1, 2, 3]]."
        )
    if kind.is_floating and not is_on_disk(x):
        text = f"`{name}` must be whole numbers. Received: fractions."
        if isinstance(x, np.ndarray):
            _require(bool((x == np.round(x)).all()), text)
        else:
            _require(tf.reduce_all(tf.equal(x, tf.round(x))), text)
    return x


def _counted(labels: Any, weights: Any, ignored: int | None) -> Any:
    """Returns which labels count; None if all do."""
    if is_on_disk(weights) or is_on_disk(labels):
        return None
    counts: Any = None
    if weights is not None and len(weights.shape) in (1, 2):
        counts = (weights[:, None] if len(weights.shape) == 1 else weights) != 0
    if ignored is not None:
        taken = labels != ignored
        counts = taken if counts is None else counts & taken
    return counts


def _check_range(
    name: str, x: Any, size: int, way_out: str, counts: Any = None
) -> None:
    text = f"`{name}` must be in [0, {size}). Received: {{}} to {{}}. {way_out}"
    if isinstance(x, np.ndarray):
        if counts is not None:
            x = x[np.broadcast_to(counts, x.shape)]
        if x.size:
            low, high = int(x.min()), int(x.max())
            _require(0 <= low and high < size, text, low, high)
    elif not is_on_disk(x):
        if counts is not None:
            x = tf.where(counts, x, tf.zeros_like(x))
        x = tf.cast(x, tf.int64)
        # Read as unsigned, negative numbers are the largest: one maximum finds all.
        largest = tf.cast(tf.reduce_max(tf.bitcast(x, tf.uint64)), tf.int64)
        inside = (largest >= 0) & (largest < size) | tf.equal(tf.size(x), 0)
        _require(inside, text, lambda: tf.reduce_min(x), lambda: tf.reduce_max(x))


def _require(ok: Any, text: str, *values: Any) -> Any:
    """Raises `InputError(text)` now; in a graph, when the returned operation runs."""
    if not tf.is_tensor(ok):
        if not ok:
            raise InputError(text.format(*values))
        return None

    def fail() -> Any:
        shown = [value() if callable(value) else value for value in values]
        message = tf.strings.format("InputError: " + text, shown)
        return tf.debugging.Assert(False, [message])

    return tf.cond(ok, tf.no_op, fail)
