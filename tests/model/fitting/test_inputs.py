"""Data of every kind is computed right, or refused before the first step."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.optimization.adamw import AdamW

Tokens = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def model(sizes: GPTConfig) -> Any:
    """Compiled to learn nothing, so that every test sees the same weights."""
    model = build_gpt(sizes, 0.5)
    model.compile(AdamW(0.0, weight_decay=0.0))
    return model


class Pairs(keras.utils.Sequence):
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return tuple(part[index * 4 : index * 4 + 4] for part in self.parts)


class LikePyDataset:
    """As Keras 3's: batches by index, of no class that Keras 2 knows."""

    def __init__(self, *parts: Any) -> None:
        self._pairs = Pairs(*parts)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return self._pairs[index]


def batches(*parts: Any) -> Iterator[Any]:
    pairs = Pairs(*parts)
    return (pairs[index] for index in range(2))


def dataset(*parts: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(parts).batch(4)


SOURCES = [Pairs, LikePyDataset, batches, dataset]


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: (x, y),
        lambda x, y: (x.tolist(), y.tolist()),
        lambda x, y: (list(x), list(y)),
        lambda x, y: ([x], [y]),
        lambda x, y: ({"token_ids": x}, {"logits": y}),
        lambda x, y: (x.astype(np.uint16), y.astype(np.int64)),
        lambda x, y: (x.astype(np.float64), y.astype(np.float32)),
        lambda x, y: (tf.constant(x), tf.constant(y)),
        lambda x, y: (tf.RaggedTensor.from_tensor(x), tf.RaggedTensor.from_tensor(y)),
    ],
    ids="arrays lists rows singletons dicts uint16 floats tensors ragged".split(),
)
def test_data_in_memory_of_any_kind_gives_the_same_loss(
    model: Any, tokens: Tokens, nll: Any, make: Callable[..., Any]
) -> None:
    x, y = make(*tokens[:2])
    expected = nll(model, *tokens[:2]).mean()
    assert model.evaluate(x, y, batch_size=3, verbose=0) == pytest.approx(
        expected, rel=1e-6
    )
    fitted = model.fit(x, y, batch_size=3, verbose=0, validation_data=(x, y))
    assert fitted.history["loss"][0] == pytest.approx(expected, rel=1e-6)
    assert fitted.history["val_loss"][0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("source", SOURCES)
def test_batches_of_any_source_give_the_same_loss(
    model: Any, tokens: Tokens, nll: Any, source: Callable[..., Any]
) -> None:
    ids, labels, weights = tokens
    parts = (ids, labels, weights[:, 0])
    spread = np.repeat(weights[:, :1], 12, 1)
    expected = (nll(model, ids, labels) * spread).sum() / spread.sum()
    assert model.evaluate(source(*parts), verbose=0) == pytest.approx(
        expected, rel=1e-6
    )
    fitted = model.fit(source(*parts), verbose=0, validation_data=source(*parts))
    assert fitted.history["loss"][0] == pytest.approx(expected, rel=1e-6)
    assert fitted.history["val_loss"][0] == pytest.approx(expected, rel=1e-6)
    data = tf.data.Dataset.from_tensors(({"token_ids": ids}, {"logits": labels}))
    assert model.evaluate(data, verbose=0) == pytest.approx(
        nll(model, ids, labels).mean(), rel=1e-6
    )


@pytest.mark.parametrize("kind", ["lists", "ragged", "objects", "dataset", "generator"])
def test_rows_of_several_lengths_count_their_own_tokens(
    model: Any, tokens: Tokens, nll: Any, kind: str
) -> None:
    lengths = [3, 12, 1, 7, 5, 2, 9, 4]
    ids, labels = (
        [row[:length] for row, length in zip(part, lengths, strict=True)]
        for part in tokens[:2]
    )
    losses = [
        nll(model, x[None], y[None]).sum() for x, y in zip(ids, labels, strict=True)
    ]
    weights = tokens[2][:, 0]
    plain = sum(losses) / sum(lengths)
    weighted = (weights * losses).sum() / (weights * lengths).sum()
    x: Any = [row.tolist() for row in ids]
    y: Any = [row.tolist() for row in labels]
    if kind in ("ragged", "dataset"):
        x, y = tf.ragged.constant(x), tf.ragged.constant(y)
    if kind == "objects":
        x, y = np.array(x, dtype=object), np.array(y, dtype=object)
    for expected, more in ((plain, ()), (weighted, (weights,))):
        if kind == "dataset":
            loss = model.evaluate(dataset(x, y, *more), verbose=0)
        elif kind == "generator":
            loss = model.evaluate(batches(x, y, *more), verbose=0)
        else:
            weight = more[0] if more else None
            loss = model.evaluate(x, y, 3, 0, sample_weight=weight)
        assert loss == pytest.approx(expected, rel=1e-6)
    if kind in ("lists", "dataset"):
        fitted = (
            model.fit(x, y, verbose=0)
            if kind == "lists"
            else model.fit(dataset(x, y), verbose=0)
        )
        assert fitted.history["loss"][0] == pytest.approx(plain, rel=1e-6)


def test_ids_of_uint16_train_with_recomputation(
    sizes: GPTConfig, tokens: Tokens, nll: Any
) -> None:
    model = build_gpt(sizes, 0.5)
    expected = nll(model, *tokens[:2]).mean()
    model.compile(AdamW(0.0, weight_decay=0.0), recompute=True)
    ids, labels = (part.astype(np.uint16) for part in tokens[:2])
    for data in ((ids, labels), (dataset(ids, labels),)):
        loss = model.fit(*data, verbose=0).history["loss"][0]
        assert loss == pytest.approx(expected, rel=1e-6)


WRONG = {
    "ids above": (
        lambda x, y: (x + 60, y),
        r"`token_ids` must be in \[0, 64\).* 1\d\d",
    ),
    "ids below": (lambda x, y: (x - 1, y), r"`token_ids` must be in .*Received: -1 "),
    "labels above": (
        lambda x, y: (x, y + 60),
        r"`labels` must be in \[0, 64\).* 1\d\d",
    ),
    "too long": (
        lambda x, y: (np.tile(x, 2), np.tile(y, 2)),
        "`token_ids` must be at most max_sequence_length=16 long. Received: length 24",
    ),
    "other lengths": (lambda x, y: (x, y[:, 1:]), "`labels` must be .*as token_ids ar"),
    "one-hot": (
        lambda x, y: (x, np.eye(64)[y]),
        r"`labels` must be \(batch, length\). Received: shape",
    ),
    "fractions": (lambda x, y: (x + 0.5, y), "`token_ids` must be whole numbers"),
    "text": (
        lambda x, y: (x.astype("U"), y),
        "`token_ids` must be integers.*Encode text",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arrays_are_refused_before_the_first_step(
    model: Any, tokens: Tokens, name: str
) -> None:
    make, sentence = WRONG[name]
    wrong, right = make(*tokens[:2]), tokens[:2]
    with pytest.raises(InputError, match=sentence):
        model.fit(*wrong, verbose=0)
    with pytest.raises(InputError, match=sentence):
        model.evaluate(*wrong, verbose=0)
    with pytest.raises(InputError, match=sentence):
        model.train_on_batch(*wrong)
    if name in ("ids above", "too long", "text"):
        with pytest.raises(InputError, match=sentence):
            model.predict(wrong[0], verbose=0)
        with pytest.raises(InputError, match=sentence):
            model.predict_on_batch(wrong[0])

    class NoStep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            raise AssertionError("a step was taken")

    with pytest.raises(InputError, match=sentence):
        model.fit(*right, validation_data=wrong, callbacks=[NoStep()], verbose=0)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["ids above", "labels above", "too long"])
def test_wrong_batches_are_refused_before_their_step(
    model: Any, tokens: Tokens, name: str, source: Any
) -> None:
    make, sentence = WRONG[name]
    steps = int(model.optimizer.iterations.numpy())
    with pytest.raises(InputError, match=sentence):
        model.fit(source(*make(*tokens[:2])), verbose=0)
    with pytest.raises(InputError, match=sentence):
        model.evaluate(source(*make(*tokens[:2])), verbose=0)
    assert int(model.optimizer.iterations.numpy()) == steps


def test_a_sentence_comes_whole_out_of_a_datasets_graph_and_of_workers(
    model: Any, tokens: Tokens
) -> None:
    wrong = tokens[0] + 60, tokens[1]
    sentences, workers = [], {"workers": 2, "shuffle": False}
    for data, settings in ((dataset(*wrong), {}), (Pairs(*wrong), workers)):
        with pytest.raises(InputError) as error:
            model.fit(data, verbose=0, **settings)
        sentences.append(str(error.value))
    low, high = int(wrong[0][:4].min()), int(wrong[0][:4].max())
    assert set(sentences) == {
        f"`token_ids` must be in [0, 64). Received: {low} to {high}. Take the "
        "tokenizer of the model."
    }


def test_too_long_validation_batches_are_refused_before_the_first_step(
    model: Any, tokens: Tokens
) -> None:
    make, sentence = WRONG["too long"]
    steps = int(model.optimizer.iterations.numpy())
    with pytest.raises(InputError, match=sentence):
        held_out = dataset(*make(*tokens[:2]))
        model.fit(dataset(*tokens[:2]), validation_data=held_out, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == steps


def test_xla_does_not_clamp_ids_in_silence(sizes: GPTConfig, tokens: Tokens) -> None:
    model = build_gpt(sizes, 0.5, jit_compile=True)
    with pytest.raises(InputError, match=r"`token_ids` must be in \[0, 64\)"):
        model.fit(dataset(tokens[0] + 1, tokens[1]), verbose=0)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ((np.ones((2, 4), np.int32),), "A GPT trains on `token_ids` and `labels`"),
        ((np.ones(4, np.int32), np.ones(4, np.int32)), r"must be \(batch, length\)"),
        (({"a": [[1]], "b": [[1]]}, [[1]]), r"Received: several \(a, b\)"),
        (([[1, 2], [3]], [[1, 2], [3, 4]]), "as many labels"),
        (([[1, 2], [3]], [[1, 2], [3, 4]], [1, 1]), "as many labels"),
        (("some text", "some text"), "`token_ids` must be integers.*Encode text"),
        ((Path("a"), Path("b")), "`token_ids` must be integers. Received: ndarray of"),
    ],
    ids=str,
)
def test_what_is_no_pair_of_tables_is_refused(
    model: Any, data: tuple[Any, ...], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        model.fit(*data, verbose=0)


def test_predictions_of_unpadded_rows_are_refused(model: Any) -> None:
    with pytest.raises(InputError, match="Pad them at the right"):
        model.predict([[1, 2], [3]], verbose=0)


def test_predictions_of_any_source_are_those_of_the_call(
    model: Any, tokens: Tokens
) -> None:
    ids, labels, _ = tokens
    expected = model(ids).numpy()
    plain = tf.data.Dataset.from_tensor_slices(ids).batch(3)
    for data in (ids, ids.tolist(), plain, dataset(ids, labels), Pairs(ids, labels)):
        np.testing.assert_allclose(model.predict(data, verbose=0), expected, atol=1e-5)
