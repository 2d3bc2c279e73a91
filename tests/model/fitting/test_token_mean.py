"""The loss is a mean over tokens, whatever weighs, ignores or adds to it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import GPT, build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.optimization.adamw import AdamW

Tokens = tuple[np.ndarray, np.ndarray, np.ndarray]

# Sums in another order, which Adam enlarges where a gradient is nearly zero; a step
# moves weights by 1e-2.
ATOL = 5e-6


def step(model: Any, *data: Any) -> dict[str, float]:
    """What one training step logs."""
    ids, labels, weights = (*data, None)[:3]
    return model.train_on_batch(ids, labels, weights, return_dict=True)


def compiled(sizes: GPTConfig, **settings: Any) -> Any:
    model = build_gpt(sizes, 0.5)
    model.compile(AdamW(1e-2), **settings)
    return model


@pytest.fixture(scope="module")
def model(sizes: GPTConfig) -> Any:
    """For `evaluate` alone: it stays as it was drawn."""
    return build_gpt(sizes, 0.5)


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 12)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_weights_of_ones_in_any_shape_change_no_loss(
    model: Any, tokens: Tokens, shape: tuple[int, ...], dtype: Any, nll: Any
) -> None:
    ids, labels, _ = tokens
    weights = np.ones(shape, dtype)
    expected = nll(model, ids, labels).mean()
    arrays = model.evaluate(ids, labels, sample_weight=weights, verbose=0)
    assert arrays == pytest.approx(expected, rel=1e-6)
    batches = tf.data.Dataset.from_tensor_slices((ids, labels, weights)).batch(3)
    assert model.evaluate(batches, verbose=0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_weights_of_sequences_weigh_their_tokens(
    sizes: GPTConfig, model: Any, tokens: Tokens, shape: tuple[int, ...], nll: Any
) -> None:
    ids, labels, weights = tokens
    per_sequence = weights[:, 0]
    spread = np.repeat(per_sequence[:, None], 12, 1)
    expected = (nll(model, ids, labels) * spread).sum() / spread.sum()
    given = per_sequence.reshape(shape)
    loss = model.evaluate(ids, labels, sample_weight=given, verbose=0, batch_size=3)
    assert loss == pytest.approx(expected, rel=1e-6)


def test_a_step_with_weights_of_sequences_has_keras_gradient(
    sizes: GPTConfig, tokens: Tokens, keras_mean: Any
) -> None:
    ids, labels, weights = tokens
    trained = build_gpt(sizes, 0.5)
    for given in (np.ones(8, np.float32), weights[:, :1]):
        spread = np.broadcast_to(given.reshape(8, 1), (8, 12))
        loss, norm = keras_mean(trained, ids, labels, spread)
        logs = step(trained, ids, labels, given)
        assert logs["batch_loss"] == pytest.approx(loss, rel=1e-5)
        assert logs["gradient_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    "shape", [(12,), (4,), (1, 12), (8, 3), (8, 12, 1), (4, 12), ()], ids=str
)
def test_weights_of_another_shape_are_refused(
    model: Any, tokens: Tokens, shape: tuple[int, ...]
) -> None:
    ids, labels, _ = tokens
    weights = np.ones(shape, np.float32)
    sentence = r"`sample_weight` must be \(batch,\), \(batch, 1\) or \(batch, length\)"
    with pytest.raises(InputError, match=sentence):
        model.evaluate(ids, labels, sample_weight=weights, verbose=0)
    for dynamic in (False, True):
        data = tf.data.Dataset.from_tensors((ids, labels, weights))
        if dynamic:  # what the shapes are is known with the batch alone
            spec = [
                tf.TensorSpec([None] * part.ndim, part.dtype) for part in tokens[:2]
            ]
            spec.append(tf.TensorSpec([None] * len(shape), tf.float32))
            data = tf.data.Dataset.from_generator(
                lambda: iter([(ids, labels, weights)]), output_signature=tuple(spec)
            )
        with pytest.raises(InputError, match=sentence):
            model.evaluate(data, verbose=0)


def test_class_weight_is_refused(model: Any, tokens: Tokens) -> None:
    ids, labels, _ = tokens
    with pytest.raises(InputError, match="`class_weight` must be None.*sample_weight"):
        model.fit(ids, labels, class_weight={0: 2.0}, verbose=0)
    with pytest.raises(InputError, match="`class_weight` must be None"):
        model.train_on_batch(ids, labels, class_weight={0: 2.0})


def own_function(labels: Any, logits: Any) -> Any:
    return keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True, ignore_class=-100
    )


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=7),
        own_function,
    ],
    ids=["-100", "a token", "function"],
)
def test_an_ignored_label_counts_nothing(
    sizes: GPTConfig, tokens: Tokens, loss: Any, keras_mean: Any
) -> None:
    ids, labels, weights = tokens
    is_own = loss is own_function
    ignored = -100 if is_own else loss.get_config()["ignore_class"]
    labels = np.where(weights < 0.5, ignored, labels)
    counts = (labels != ignored).astype(np.float32)
    trained = compiled(sizes, loss=loss)
    # The reference: Keras' own loss with the mask as weights.
    expected, norm = keras_mean(trained, ids, np.maximum(labels, 0), counts)
    if not is_own:
        assert float(loss(labels, trained(ids))) == pytest.approx(expected, rel=1e-6)
    loss_now = trained.evaluate(ids, labels, batch_size=8, verbose=0)
    assert loss_now == pytest.approx(expected, rel=1e-6)
    logs = step(trained, ids, labels)
    assert logs["batch_loss"] == pytest.approx(expected, rel=1e-6)
    assert logs["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    # Batches count by the tokens that they have, and weights multiply.
    by_batch = trained.evaluate(ids, labels, batch_size=3, verbose=0)
    mean, _ = keras_mean(trained, ids, np.maximum(labels, 0), counts)
    assert by_batch == pytest.approx(mean, rel=1e-5)
    weighted = trained.evaluate(ids, labels, 3, 0, sample_weight=weights)
    mean, _ = keras_mean(trained, ids, np.maximum(labels, 0), counts * weights)
    assert weighted == pytest.approx(mean, rel=1e-5)


def test_labels_of_minus_100_need_a_weight_of_0(
    sizes: GPTConfig, model: Any, tokens: Tokens, keras_mean: Any
) -> None:
    ids, labels, weights = tokens
    labels = np.where(weights < 0.5, -100, labels)
    sentence = r"`labels` must be in \[0, 64\). Received: -100 to 6.*ignore_class"
    with pytest.raises(InputError, match=sentence):
        model.fit(ids, labels, verbose=0)
    with pytest.raises(InputError, match=sentence):
        model.evaluate(tf.data.Dataset.from_tensors((ids, labels)), verbose=0)
    counts = (labels >= 0).astype(np.float32)
    expected, norm = keras_mean(model, ids, np.maximum(labels, 0), counts)
    logs = step(build_gpt(sizes, 0.5), ids, labels, counts)
    assert logs["batch_loss"] == pytest.approx(expected, rel=1e-6)
    assert logs["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    data = tf.data.Dataset.from_tensor_slices((ids, labels, counts)).batch(3)
    assert model.evaluate(data, verbose=0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (keras.losses.SparseCategoricalCrossentropy(), "must be a loss of logits"),
        ("sparse_categorical_crossentropy", "must be a loss of logits"),
        ([own_function, own_function], "must be one loss"),
        ({"a": own_function, "b": own_function}, "must be one loss"),
    ],
    ids=["object", "name", "list", "dict"],
)
def test_a_loss_that_does_not_fit_is_refused(
    model: Any, loss: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        model.compile("adam", loss)


def test_loss_weights_are_refused(model: Any) -> None:
    with pytest.raises(InputError, match="without `loss_weights`.*Received: loss_weig"):
        model.compile("adam", loss_weights=[0.5])


@pytest.mark.parametrize("axis", [None, -1], ids=["scalar", "per sequence"])
def test_a_loss_that_is_a_mean_of_its_own_takes_no_weights(
    sizes: GPTConfig, tokens: Tokens, axis: int | None, nll: Any
) -> None:
    ids, labels, weights = tokens
    own = keras.losses.sparse_categorical_crossentropy
    trained = compiled(
        sizes, loss=lambda y, p: tf.reduce_mean(own(y, p, from_logits=True), axis)
    )
    expected = nll(trained, ids, labels).mean()
    assert step(trained, ids, labels)["batch_loss"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="`loss` must return one number per token"):
        trained.evaluate(ids, labels, sample_weight=weights, verbose=0)


def test_labels_of_a_loss_of_ones_own_may_be_distributions(
    sizes: GPTConfig, tokens: Tokens, keras_mean: Any
) -> None:
    ids, labels, weights = tokens
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    trained = compiled(sizes, loss=loss, micro_batches=2)
    expected, norm = keras_mean(trained, ids, labels, weights)
    logs = step(trained, ids, np.eye(64, dtype=np.float32)[labels], weights)
    assert logs["batch_loss"] == pytest.approx(expected, rel=1e-6)
    assert logs["gradient_norm"] == pytest.approx(norm, rel=1e-5)


def with_penalty(sizes: GPTConfig, **settings: Any) -> Any:
    model = build_gpt(sizes, 0.5)
    table = model.named_weights()["embedding/token"]
    model.add_loss(lambda: 0.1 * tf.reduce_sum(tf.square(table)))
    model.compile(AdamW(1e-2), **settings)
    return model


@pytest.mark.parametrize(
    "settings", [{}, {"micro_batches": 4}, {"recompute": True}], ids=str
)
def test_an_added_loss_is_trained_on_once(
    sizes: GPTConfig, tokens: Tokens, settings: dict[str, Any]
) -> None:
    ids, labels, weights = tokens
    trained = with_penalty(sizes, **settings)
    with tf.GradientTape() as tape:
        own = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="sum"
        )
        loss = own(labels, trained(ids), sample_weight=weights) / weights.sum()
        table = trained.named_weights()["embedding/token"]
        loss += 0.1 * tf.reduce_sum(tf.square(table))
    gradients = tape.gradient(loss, trained.trainable_variables)
    norm = tf.linalg.global_norm([tf.convert_to_tensor(g) for g in gradients])
    assert trained.evaluate(ids, labels, 8, 0, weights) == pytest.approx(
        float(loss), rel=1e-6
    )
    logs = step(trained, ids, labels, weights)
    assert logs["batch_loss"] == pytest.approx(float(loss), rel=1e-6)
    assert logs["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_recomputation_refuses_layers_that_it_would_leave_out(
    sizes: GPTConfig, tokens: Tokens
) -> None:
    model = build_gpt(sizes, 0.5)
    model.add_loss(0.1 * tf.reduce_mean(tf.square(model.outputs[0])))
    model.compile(AdamW(1e-2), recompute=True)
    with pytest.raises(InputError, match="`recompute` must be false in a model with"):
        model.fit(*tokens[:2], verbose=0)


class ComputesLoss(GPT):
    train_step = keras.Model.train_step


class CallsCompiledLoss(GPT):
    def train_step(self, data: Any) -> Any:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            logits = self(x, training=True)
            loss = self.compiled_loss(y, logits, weights)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        self.compiled_metrics.update_state(y, logits, weights)
        return {metric.name: metric.result() for metric in self.metrics}


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("kind", [ComputesLoss, CallsCompiledLoss])
def test_a_subclass_with_keras_step_logs_and_trains_as_ours(
    sizes: GPTConfig, tokens: Tokens, kind: type[GPT], precision: str
) -> None:
    ids, labels, weights = tokens
    models = []
    for cls in (GPT, kind):
        built = build_gpt(sizes, 0.5, precision=precision)
        models.append(cls(built.inputs, built.outputs))
        models[-1].compile(AdamW(1e-2, global_clipnorm=0.1))
    histories = [
        model.fit(
            ids,
            labels,
            batch_size=3,
            sample_weight=weights[:, 0],
            shuffle=False,
            verbose=0,
        ).history["loss"]
        for model in models
    ]
    assert histories[1] == pytest.approx(histories[0], rel=1e-5)
    for path, weight in models[0].named_weights().items():
        other = models[1].named_weights()[path].numpy()
        np.testing.assert_allclose(weight.numpy(), other, atol=ATOL)


def test_gradients_that_were_not_scaled_are_refused_in_float16(
    sizes: GPTConfig, tokens: Tokens
) -> None:
    class Plain(GPT):
        def train_step(self, data: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = self.compute_loss(None, data[1], self(data[0]))
            gradients = tape.gradient(loss, self.trainable_variables)
            pairs = zip(gradients, self.trainable_variables, strict=True)
            self.optimizer.apply_gradients(pairs)
            return {"loss": loss}

    built = build_gpt(sizes, 0.5, precision="mixed_float16")
    model = Plain(built.inputs, built.outputs)
    model.compile(AdamW(1e-2))
    with pytest.raises(InputError, match="must be of the loss times.*minimize"):
        model.fit(*tokens[:2], verbose=0)


def test_micro_batches_refuse_a_loss_that_they_cannot_compute_in_parts(
    sizes: GPTConfig, tokens: Tokens
) -> None:
    class Own(GPT):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    built = build_gpt(sizes, 0.5)
    with pytest.raises(InputError, match="`micro_batches` must be 1 in a subclass"):
        Own(built.inputs, built.outputs).compile("adam", micro_batches=2)
    trained = compiled(sizes, loss=own_function, micro_batches=2)
    with pytest.raises(InputError, match="must be 1 with a loss that leaves out"):
        trained.fit(*tokens[:2], verbose=0)


@pytest.mark.parametrize("parts", [0, -1, 2.0, "2"])
def test_parts_that_are_no_number_of_them_are_refused(model: Any, parts: Any) -> None:
    with pytest.raises(InputError, match="`micro_batches` must be an integer of at l"):
        model.compile("adam", micro_batches=parts)


@pytest.mark.parametrize("rows", [7, 1, 5])
def test_a_smaller_batch_in_parts_has_the_gradient_of_the_whole(
    sizes: GPTConfig,
    tokens: Tokens,
    rows: int,
    parts_of_4: Callable[[], Any],
    keras_mean: Any,
) -> None:
    ids, labels, weights = (part[:rows] for part in tokens)
    model = parts_of_4()
    expected, norm = keras_mean(model, ids, labels, weights)
    logs = step(model, ids, labels, weights)
    assert logs["batch_loss"] == pytest.approx(expected, rel=1e-6)
    assert logs["gradient_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.fixture(scope="module")
def parts_of_4(sizes: GPTConfig) -> Callable[[], Any]:
    """One model, traced once: each call gives it its first weights again."""
    model = compiled(sizes, micro_batches=4)
    before = model.get_weights()

    def again() -> Any:
        model.set_weights(before)
        return model

    return again


def test_an_epoch_with_a_smaller_last_batch_is_as_right_in_parts(
    sizes: GPTConfig, tokens: Tokens
) -> None:
    ids, labels, weights = (part[:7] for part in tokens)
    models = [compiled(sizes, micro_batches=parts) for parts in (1, 4)]
    for model in models:
        data = tf.data.Dataset.from_tensor_slices((ids, labels, weights)).batch(4)
        model.fit(data, verbose=0)
    for path, weight in models[0].named_weights().items():
        other = models[1].named_weights()[path].numpy()
        np.testing.assert_allclose(weight.numpy(), other, atol=ATOL)


@pytest.mark.parametrize(
    "settings",
    [{"run_eagerly": True}, {"steps_per_execution": 2}],
    ids=str,
)
def test_other_ways_to_run_give_the_same_weights(
    sizes: GPTConfig, tokens: Tokens, settings: dict[str, Any]
) -> None:
    ids, labels, weights = (part[:7] for part in tokens)
    metrics = {"weighted_metrics": ["accuracy"], "micro_batches": 3}
    models = [compiled(sizes, **metrics, **more) for more in ({}, settings)]
    histories = [
        model.fit(
            ids,
            labels,
            batch_size=4,
            sample_weight=weights[:, 0],
            shuffle=False,
            verbose=0,
        ).history
        for model in models
    ]
    for name in ("loss", "accuracy"):
        assert histories[1][name] == pytest.approx(histories[0][name], rel=1e-5)
    for path, weight in models[0].named_weights().items():
        other = models[1].named_weights()[path].numpy()
        np.testing.assert_allclose(weight.numpy(), other, atol=ATOL)


def test_two_replicas_give_the_numbers_of_one_device() -> None:
    program = Path(__file__).with_name("replica_steps.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert set(one) == set(two) >= {"loss", "accuracy", "weighted", "val_loss"}
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-5, err_msg=name)
