"""Metrics of `compile`, in training and evaluation, are those of plain Keras."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.keras2 import keras
from spdf_keras.optimization.adamw import AdamW

Tokens = tuple[np.ndarray, np.ndarray, np.ndarray]


def metrics() -> dict[str, Any]:
    """Unweighted and weighted ones: means, sums over tokens, functions, names."""
    import keras_nlp

    own = keras.losses.sparse_categorical_crossentropy

    def crossentropy(labels: Any, logits: Any) -> Any:
        return own(labels, logits, from_logits=True)

    return {
        "metrics": [
            "accuracy",
            crossentropy,
            keras_nlp.metrics.Perplexity(from_logits=True, name="perplexity"),
        ],
        "weighted_metrics": [
            keras.metrics.SparseCategoricalAccuracy(name="weighted_accuracy"),
            keras.metrics.SparseTopKCategoricalAccuracy(20, name="weighted_top"),
            keras_nlp.metrics.Perplexity(from_logits=True, name="weighted_perplexity"),
        ],
    }


def plain_keras(model: Any) -> Any:
    """A plain Keras model of the same layers, which computes the same outputs."""
    return keras.Model(model.inputs, model.outputs)


@pytest.mark.parametrize("shape", [None, (8,), (8, 1), (8, 12)], ids=str)
def test_metrics_are_those_of_plain_keras(
    sizes: GPTConfig, tokens: Tokens, shape: tuple[int, ...] | None
) -> None:
    ids, labels, weights = tokens
    model = build_gpt(sizes, 0.5)
    plain = plain_keras(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile("sgd", loss, **metrics())
    # A rate of 0: both see the same weights, before and after the step.
    model.compile(AdamW(0.0, weight_decay=0.0), **metrics())
    given = spread = None
    if shape:
        given = weights[:, : shape[-1] if len(shape) == 2 else 1].reshape(shape)
        spread = np.broadcast_to(given.reshape(8, -1), (8, 12))
    # KerasNLP's perplexity needs weights of the labels' shape, even from Keras.
    expected = plain.evaluate(ids, labels, 3, 0, spread, return_dict=True)
    expected.pop("loss")
    assert len(expected) == 6
    evaluated = model.evaluate(ids, labels, 3, 0, given, return_dict=True)
    trained = model.fit(
        ids, labels, batch_size=3, sample_weight=given, shuffle=False, verbose=0
    ).history
    for name, value in expected.items():
        assert evaluated[name] == pytest.approx(value, rel=1e-6), name
        assert trained[name][0] == pytest.approx(value, rel=1e-6), name


def test_weighted_metrics_count_tokens_over_batches_of_unequal_weight(
    sizes: GPTConfig,
) -> None:
    model = build_gpt(sizes)
    model.compile("adam", weighted_metrics=["accuracy"])
    ids = np.arange(48, dtype=np.int32).reshape(4, 12)
    right = np.argmax(model(ids), -1).astype(np.int32)
    # 24 tokens right, then one token that counts, and is wrong.
    labels, weights = right.copy(), np.ones((4, 12), np.float32)
    labels[2:] = (right[2:] + 1) % 64
    weights[2:] = 0.0
    weights[2, 5] = 1.0
    data = tf.data.Dataset.from_tensor_slices((ids, labels, weights)).batch(2)
    results = model.evaluate(data, verbose=0, return_dict=True)
    assert results["accuracy"] == pytest.approx(24 / 25)


@pytest.mark.parametrize("parts", [2, 3])
def test_metrics_see_every_token_once_in_parts_of_a_smaller_batch(
    sizes: GPTConfig, tokens: Tokens, parts: int
) -> None:
    ids, labels, weights = (part[:7] for part in tokens)
    model = build_gpt(sizes, 0.5)
    given = metrics()
    given["weighted_metrics"].pop()  # a mean of batches' means: parts are batches
    model.compile(AdamW(0.0, weight_decay=0.0), micro_batches=parts, **given)
    expected = model.evaluate(ids, labels, 4, 0, weights, return_dict=True)
    trained = model.fit(
        ids, labels, batch_size=4, sample_weight=weights, shuffle=False, verbose=0
    ).history
    for name, value in expected.items():
        assert trained[name][0] == pytest.approx(value, rel=1e-6), name


def test_validation_has_the_metrics_too(sizes: GPTConfig, tokens: Tokens) -> None:
    ids, labels, weights = tokens
    model = build_gpt(sizes, 0.5)
    model.compile(AdamW(1e-2), metrics={"logits": "accuracy"})
    data = (ids, labels, weights)
    logs = model.fit(ids, labels, validation_data=data, verbose=0).history
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(logs)
    loss, accuracy = model.evaluate(*data[:2], sample_weight=weights, verbose=0)
    assert logs["val_loss"][0] == pytest.approx(loss, rel=1e-6)
    assert logs["val_accuracy"][0] == pytest.approx(accuracy)


def test_a_weighted_perplexity_passes_over_labels_that_count_nothing(
    sizes: GPTConfig, tokens: Tokens, keras_mean: Any
) -> None:
    import keras_nlp

    ids, labels, weights = tokens
    labels = np.where(weights < 0.5, -100, labels)
    counts = (labels >= 0).astype(np.float32)
    model = build_gpt(sizes, 0.5)
    perplexity = keras_nlp.metrics.Perplexity(from_logits=True)
    model.compile("adam", weighted_metrics=[perplexity])
    results = model.evaluate(ids, labels, 8, 0, counts, return_dict=True)
    loss, _ = keras_mean(model, ids, np.maximum(labels, 0), counts)
    assert results["perplexity"] == pytest.approx(np.exp(loss), rel=1e-5)


def test_an_added_metric_is_logged(sizes: GPTConfig, tokens: Tokens) -> None:
    model = build_gpt(sizes, 0.5)
    model.add_metric(tf.reduce_mean(model.outputs[0]), name="mean_logit")
    model.compile(AdamW(0.0, weight_decay=0.0))
    logs = model.fit(*tokens[:2], verbose=0).history
    expected = float(tf.reduce_mean(model(tokens[0])))
    assert logs["mean_logit"][0] == pytest.approx(expected, rel=1e-5)
