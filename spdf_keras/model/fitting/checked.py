"""A Keras model that looks at its data before it takes the first step."""

import contextlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.model.fitting.inputs import InputRules

# The first finds our own sentence in an error of TensorFlow, the second TensorFlow's
# sentence about data that could not be checked before.
_OURS = re.compile(r"InputError: (.+?)\]?\s*(?:\n|$)")
_THEIRS = re.compile(
    r"indices\S* = (?P<id>-?\d+) is not in \[0, (?P<rows>\d+)\)|"
    r"label value of (?P<label>-?\d+) which is outside the valid range of "
    r"\[0, (?P<classes>\d+)\)"
)


class CheckedModel(keras.Model):
    """A Keras model whose data is checked by `InputRules`.

    It takes all data that Keras takes: arrays, lists, dicts of one array, datasets,
    generators and sequences; also rows of several lengths, which it pads with tokens
    that count nothing.
    """

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """`keras.Model.fit`; data that does not fit is refused in one sentence.

        Raises:
            InputError: If token ids, labels, weights or validation data do not fit the
                model, or there is a `class_weight`.
        """
        call = _bind(keras.Model.fit, self, x, y, *args, **kwargs)
        validation = call.arguments.get("validation_data")
        if isinstance(validation, tuple | list) and validation:
            validation = keras.utils.unpack_x_y_sample_weight(tuple(validation))
            call.arguments["validation_data"] = self._rules().arrays(*validation)
        elif validation is not None:
            call.arguments["validation_data"] = self._rules().data(validation)
        return self._checked_call(super().fit, call)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate`, with the checks of `fit`."""
        call = _bind(keras.Model.evaluate, self, *args, **kwargs)
        if kwargs.get("_use_cached_eval_dataset"):  # `fit` has checked it
            with _one_sentence():
                return super().evaluate(*args, **kwargs)
        return self._checked_call(super().evaluate, call)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict`, with the checks of `fit`."""
        call = _bind(keras.Model.predict, self, *args, **kwargs)
        return self._checked_call(super().predict, call, trains=False)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.train_on_batch`, with the checks of `fit`."""
        call = _bind(keras.Model.train_on_batch, self, *args, **kwargs)
        return self._checked_call(super().train_on_batch, call)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.test_on_batch`, with the checks of `fit`."""
        call = _bind(keras.Model.test_on_batch, self, *args, **kwargs)
        return self._checked_call(super().test_on_batch, call)

    def predict_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict_on_batch`, with the checks of `fit`."""
        call = _bind(keras.Model.predict_on_batch, self, *args, **kwargs)
        return self._checked_call(super().predict_on_batch, call, trains=False)

    @tf.__internal__.tracking.no_automatic_dependency_tracking
    def _set_untracked(self, name: str, value: Any) -> None:
        """Sets an attribute that is no part of the saved model."""
        setattr(self, name, value)

    def _rules(self, trains: bool = True) -> InputRules:
        layer, loss = self.embedding, getattr(self, "compiled_loss", None)
        return InputRules(
            layer.max_sequence_length,
            layer.vocabulary_size,
            trains,
            getattr(loss, "checks_labels", False),
            getattr(loss, "ignored_label", None),
        )

    def _checked_call(
        self, method: Any, call: inspect.BoundArguments, trains: bool = True
    ) -> Any:
        arguments, rules = call.arguments, self._rules(trains)
        if arguments.get("class_weight"):
            raise InputError(
                "`class_weight` must be None: a GPT weighs tokens by `sample_weight`, "
                "(batch, length). Received: class_weight="
                f"{str(arguments['class_weight'])[:60]}. Give the weight of each label "
                "there."
            )
        x = rules.data(arguments.get("x"))
        if x is not arguments.get("x"):
            arguments["x"] = x
        elif not _is_spread(x):
            names = ("x", "y", "sample_weight")
            checked = rules.arrays(*(arguments.get(name) for name in names))
            pairs = zip(names, checked, strict=True)
            arguments.update({n: v for n, v in pairs if v is not None})
        with _one_sentence():
            return method(*call.args[1:], **call.kwargs)


def _bind(method: Any, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    return inspect.signature(method).bind(*args, **kwargs)


def _is_spread(x: Any) -> bool:
    """Whether the data is already spread over replicas, or made by each worker."""
    kinds = (tf.distribute.DistributedDataset, tf.distribute.DistributedIterator)
    creator = keras.utils.experimental.DatasetCreator
    return x is None or isinstance(x, (*kinds, creator))


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Raises `InputError` where TensorFlow tells of data that does not fit."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        ours, theirs = _OURS.search(str(error)), _THEIRS.search(str(error))
        if ours:
            raise InputError(ours[1]) from None
        if theirs is None or not isinstance(error, tf.errors.InvalidArgumentError):
            raise
        name = "token_ids" if theirs["label"] is None else "labels"
        raise InputError(
            f"`{name}` must be in [0, {theirs['rows'] or theirs['classes']}). "
            f"Received: {theirs['id'] or theirs['label']}."
        ) from None
