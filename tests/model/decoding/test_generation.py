from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.model.decoding.passes import decode, effective_kernels, prefill, project


def widen(model: Any) -> None:
    """Ten times wider weights: outputs that vary with every token."""
    for weight in model.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(10 * weight)


@pytest.fixture(scope="module")
def model(tiny: GPTConfig) -> Any:
    model = build_gpt(tiny, 0.5)
    widen(model)
    return model


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """The reference: one full forward pass per token, no cache."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(np.argmax(model(np.array([tokens]))[0, -1])))
    return tokens[len(prompt) :]


def test_decoding_step_by_step_equals_one_forward_pass(model: Any) -> None:
    token_ids = np.random.default_rng(0).integers(0, 512, (3, 20)).astype(np.int32)
    expected = model(token_ids).numpy()
    kernels = effective_kernels(model)
    hidden, caches = prefill(model, tf.constant(token_ids[:, :8]), 24, kernels)
    logits = [project(model, hidden)]
    for position in range(8, 20):
        column = tf.constant(token_ids[:, position : position + 1])
        where = tf.fill([3], position)
        hidden, caches = decode(model, column, where, caches, kernels)
        logits.append(project(model, hidden))
    # Logits reach 40; the products run over other shapes.
    np.testing.assert_allclose(tf.concat(logits, 1), expected, atol=2e-4)


def test_prompts_of_any_lengths_in_one_batch_give_the_tokens_of_each_alone(
    model: Any,
) -> None:
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 512, n).tolist() for n in (1, 40, 7, 33, 32)]
    outputs = model.generate(prompts, max_new_tokens=12, batch_size=3)
    assert outputs == [greedy(model, prompt, 12) for prompt in prompts]


def test_a_continuation_stops_before_its_end_token(model: Any) -> None:
    prompts = [[5, 6, 7], [8]]
    free = [greedy(model, prompt, 10) for prompt in prompts]
    end = free[0][4]
    expected = [t[: t.index(end)] if end in t else t for t in free]
    assert model.generate(prompts, 10, end_token_ids=[end]) == expected
    assert len(expected[0]) <= 4


def test_a_continuation_stops_at_the_end_of_the_context(model: Any) -> None:
    prompts = [[3] * 60, [4] * 10]
    outputs = model.generate(prompts, max_new_tokens=30)
    assert [len(output) for output in outputs] == [4, 30]
    assert outputs == [greedy(model, prompts[0], 4), greedy(model, prompts[1], 30)]


def test_generation_sees_later_training(tiny: GPTConfig) -> None:
    model = build_gpt(tiny, 0.5)
    before = model.generate([[1, 2, 3]], 5)
    widen(model)
    after = model.generate([[1, 2, 3]], 5)
    assert after != before and after == [greedy(model, [1, 2, 3], 5)]


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ([], r"must have 1 to 63 tokens .* Received: 0 tokens in prompt 2 of 2, \[\]"),
        ([1] * 64, r"Received: 64 tokens in prompt 2 of 2, \[(1, ){8}\.{3}\]"),
        (
            [3, 512],
            r"must be in \[0, 512\). Received: 3 to 512 in prompt 2 of 2, \[3, 5",
        ),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(
    model: Any, prompt: list[int], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        model.generate([[1], prompt])


@pytest.mark.parametrize(
    "make",
    [
        np.array,
        tf.constant,
        lambda rows: np.array(rows, np.uint16),
        lambda rows: [np.array(row) for row in rows],
        lambda rows: tuple(map(tuple, rows)),
        lambda rows: (row for row in rows),
        lambda rows: tf.data.Dataset.from_tensor_slices(rows),
        tf.ragged.constant,
    ],
    ids="array tensor uint16 rows tuples generator dataset ragged".split(),
)
def test_prompts_of_any_kind_give_the_same_tokens(model: Any, make: Any) -> None:
    prompts = [[5, 6, 7], [8, 9, 10]]
    assert model.generate(make(prompts), 4) == model.generate(prompts, 4)


def test_ragged_prompts_keep_their_lengths(model: Any) -> None:
    prompts = [[5, 6, 7], [8], [9, 10]]
    expected = model.generate(prompts, 4)
    assert model.generate(tf.ragged.constant(prompts), 4) == expected
    assert model.generate(np.array(prompts, dtype=object), 4) == expected
    assert model.generate([], 4) == model.generate(np.zeros((0, 3), int), 4) == []


@pytest.mark.parametrize(
    "prompts",
    ["text", ["text"], [1, 2, 3], np.array([1, 2, 3]), tf.constant([1, 2]), None, 7]
    + [[[1.0, 2.0]], [["a"]], [[[1]]], [[1], None], {"token_ids": [[1]]}, b"text"],
    ids=str,
)
def test_prompts_that_are_no_lists_of_token_ids_are_refused(
    model: Any, prompts: Any
) -> None:
    sentence = r"`prompts` must be a list of prompts, each a list of token ids, such as"
    with pytest.raises(InputError, match=sentence):
        model.generate(prompts, 4)


@pytest.mark.parametrize("kind", [int, np.int64, lambda end: [end], np.array, set])
def test_end_tokens_of_any_kind_end_a_continuation(model: Any, kind: Any) -> None:
    free = greedy(model, [5, 6, 7], 10)
    end = free[4]
    given = {end} if kind is set else kind(end)
    expected = [free[: free.index(end)]]
    assert model.generate([[5, 6, 7]], 10, end_token_ids=given) == expected
    nothing: list[Any] = [None, (), []]
    for ends in nothing:
        assert model.generate([[5, 6, 7]], 10, end_token_ids=ends) == [free]


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        ("a", "must be one token id, a list of them, or None. Received: 'a'"),
        ([None], "must be one token id, a list of them, or None"),
        ([5.0], "must be one token id, a list of them, or None"),
        (512, r"`end_token_ids` must be in \[0, 512\).*Received: 512"),
        ([3, -1], r"`end_token_ids` must be in \[0, 512\).*Received: -1"),
    ],
)
def test_end_tokens_that_never_come_are_refused(
    model: Any, end: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        model.generate([[1]], 4, end_token_ids=end)
