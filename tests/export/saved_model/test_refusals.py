"""Inputs that a SavedModel refuses, and models that have none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.config import DecodeConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation.texts import generate_texts
from spdf_keras.export import to_saved_model, to_text_model, to_tflite, to_xla

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def signatures(sizes: GPTConfig, tmp_path_factory: Any) -> Any:
    path = tmp_path_factory.mktemp("export") / "gpt"
    beams = DecodeConfig(num_beams=2)
    card = to_saved_model(build_gpt(sizes), path, beam_search=beams)
    return tf.saved_model.load(card.path).signatures


@pytest.fixture(params=["generate", "generate_beam"])
def generate(signatures: Any, request: pytest.FixtureRequest) -> Call:
    def call(token_ids: Any, lengths: Any, limits: Any) -> Any:
        found = signatures[request.param](
            token_ids=tf.constant(np.asarray(token_ids, np.int32)),
            lengths=tf.constant(np.asarray(lengths, np.int32)),
            max_new_tokens=tf.constant(np.asarray(limits, np.int32)),
        )
        return found["token_ids"].numpy(), found["lengths"].numpy()

    return call


@pytest.mark.parametrize("wrong", [-2, -1, 64, 2**31 - 1])
def test_an_id_that_is_no_token_is_refused_where_it_counts(
    signatures: Any, generate: Call, wrong: int
) -> None:
    message = r"`token_ids` must be in \[0, 64\)"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        generate([[1, 2, 0], [3, wrong, 0]], [1, 2], [4, 4])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["serving_default"](token_ids=tf.constant([[1, wrong]]))
    padded, zeros = (
        generate([[1, 2, p], [3, p, p]], [2, 1], [4, 4]) for p in (wrong, 0)
    )
    np.testing.assert_array_equal(padded[0], zeros[0])


def test_an_empty_batch_has_an_empty_result(signatures: Any, generate: Call) -> None:
    for width in (3, 0):
        token_ids, lengths = generate(np.zeros((0, width)), [], [])
        assert len(token_ids) == len(lengths) == 0
    serve = signatures["serving_default"]
    for shape in ((0, 3), (0, 0), (2, 0)):
        logits = serve(token_ids=tf.zeros(shape, tf.int32))["logits"]
        assert logits.shape == (*shape, 64)


def test_every_row_has_a_length_and_a_limit(generate: Call) -> None:
    token_ids, lengths = generate([[1, 2], [3, 4]], [1, 2], [5, 2])
    assert lengths.tolist() == [5, 2] and token_ids[1, 2:].tolist() == [-1] * 3
    for sizes in ((1, 2), (2, 1), (3, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="an entry per row"):
            generate([[1, 2], [3, 4]], *(np.ones(size) for size in sizes))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be positive"):
        generate([[1, 2], [3, 4]], [1, 2], [1, 0])


@pytest.mark.parametrize(
    "separator", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_an_empty_text_has_an_output_of_its_own(
    small_model: GPT, tmp_path: Path, separator: bool
) -> None:
    tokenizer = Tokenizer.train(["name : Blue Spice | food : English \n\n"], 300)
    path = tmp_path / "text"
    card = to_text_model(small_model, tokenizer, path, separator=separator)
    serve = tf.saved_model.load(card.path).signatures["serving_default"]

    def run(*texts: str) -> list[str]:
        found = serve(
            text=tf.constant(texts, tf.string, [len(texts)]),
            max_new_tokens=tf.fill([len(texts)], 6),
        )
        return [text.decode() for text in found["text"].numpy()]

    alone = run("food")
    assert run("food", "", "name : Blue") == [*alone, *run(""), *run("name : Blue")]
    assert run() == []
    # The separator alone is a prompt; without one there is nothing to continue.
    settings = DecodeConfig(max_new_tokens=6)
    expected = (
        generate_texts(small_model, tokenizer, [""], settings) if separator else [""]
    )
    assert run("") == expected
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be positive"):
        serve(text=tf.constant(["a"]), max_new_tokens=tf.constant([0]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_exporter_writes_weights_that_are_not_finite(
    sizes: GPTConfig, tmp_path: Path, value: float
) -> None:
    model = build_gpt(sizes, 0.75)
    table = model.named_weights()["embedding/position"]
    broken = table.numpy()
    broken[-1, 0] = value  # a position that no check reaches
    table.assign(broken)
    tokenizer = Tokenizer.train(["ab"], 257)
    message = "weight 'embedding/position' has NaN or infinity"
    for export in (
        lambda path: to_saved_model(model, path, signatures=["generate"]),
        lambda path: to_text_model(model, tokenizer, path),
        lambda path: to_tflite(model, path),
        lambda path: to_xla(model, path, ("decode",), sparse=True, check=False),
    ):
        with pytest.raises(InputError, match=message):
            export(tmp_path / "gpt")
        assert not list(tmp_path.iterdir())


def test_weights_beyond_the_precision_of_an_export_are_refused(
    sizes: GPTConfig, tmp_path: Path
) -> None:
    model = build_gpt(sizes)
    table = model.named_weights()["embedding/position"]
    table.assign(tf.fill(table.shape, 1e6))
    with pytest.raises(InputError, match="precision=mixed_float16, in which"):
        to_xla(
            model, tmp_path / "x", ("decode",), precision="mixed_float16", check=False
        )
    assert not list(tmp_path.iterdir())
