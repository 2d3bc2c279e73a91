"""Drawn and constrained tokens against NumPy in float64."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras import build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.model.decoding.constraints import (
    ban_repeated_ngrams,
    draw,
    penalise_repetition,
)

EVENLY = (np.arange(20_000) + 0.5) / 20_000


def filtered(
    logits: NDArray[Any], temperature: float, top_k: int, top_p: float
) -> NDArray[np.float64]:
    """The distribution that a draw is from, of one row."""
    x = logits.astype(np.float64) / temperature
    order = np.argsort(-x, kind="stable")[: top_k or len(x)]
    p = np.exp(x[order] - x.max())
    p /= p.sum()
    kept = np.cumsum(p) - p < top_p
    result = np.zeros(len(x))
    result[order[kept]] = p[kept] / p[kept].sum()
    return result


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 1.0),
        (0.5, 0, 1.0),
        (3.0, 0, 1.0),
        (1.0, 5, 1.0),
        (1.0, 1, 1.0),
        (1.0, 99, 1.0),
        (1.0, 0, 0.7),
        (1.0, 0, 0.01),
        (0.8, 8, 0.9),
    ],
)
def test_draws_follow_the_filtered_distribution(
    temperature: float, top_k: int, top_p: float
) -> None:
    logits = np.random.default_rng(0).normal(0, 2, 30).astype(np.float32)
    rows = np.tile(logits, (len(EVENLY), 1))
    uniform = tf.constant(EVENLY, tf.float32)
    tokens = draw(tf.constant(rows), uniform, temperature, top_k, top_p).numpy()
    shares = np.bincount(tokens, minlength=30) / len(tokens)
    expected = filtered(logits, temperature, top_k, top_p)
    # Evenly spaced numbers: each share is right to one of them, and none is outside.
    np.testing.assert_allclose(shares, expected, atol=1.5 / len(EVENLY))
    assert not shares[expected == 0].any()


def test_the_largest_random_number_draws_a_token_that_may_be_drawn() -> None:
    logits = tf.constant(np.random.default_rng(1).normal(size=(1, 50257)), tf.float32)
    last = np.nextafter(np.float32(1), np.float32(0))
    for top_k, top_p in ((0, 1.0), (7, 1.0), (0, 0.9)):
        token = draw(logits, tf.constant([last]), 1.0, top_k, top_p).numpy()[0]
        allowed = filtered(logits.numpy()[0], 1.0, top_k, top_p) > 0
        assert allowed[token]


def test_only_what_would_complete_an_ngram_is_banned() -> None:
    history = tf.constant([[[1, 2, 3, 1, 2, -1, -1], [4, 4, 4, 4, 4, -1, -1]]])
    logits = tf.zeros((1, 2, 6))

    def banned(size: int) -> list[list[int]]:
        result = ban_repeated_ngrams(logits, history, tf.constant(5), size).numpy()[0]
        return [np.flatnonzero(np.isneginf(row)).tolist() for row in result]

    assert banned(1) == [[1, 2, 3], [4]]
    assert banned(2) == [[3], [4]]
    assert banned(3) == [[3], [4]]
    assert banned(4) == [[], [4]]
    assert banned(5) == [[], [4]]
    # The sixth token would complete the first six-gram: none has occurred.
    assert banned(6) == banned(7) == banned(8) == [[], []]


def test_a_repeated_token_is_penalised_once() -> None:
    history = tf.constant([[[0, 0, 2, -1]]])
    logits = tf.constant([[[3.0, 3.0, -3.0, -3.0]]])
    result = penalise_repetition(logits, history, tf.constant(3), 2.0)
    assert result.numpy().tolist() == [[[1.5, 3.0, -6.0, -3.0]]]


@pytest.fixture(scope="module")
def model(tiny: GPTConfig) -> Any:
    return build_gpt(tiny, 0.5)


def test_a_seed_gives_the_same_tokens_however_prompts_are_batched(model: Any) -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 512, n).tolist() for n in (9, 3, 20, 3, 1)]
    settings: dict[str, Any] = {"sample": True, "temperature": 2.0, "seed": 5}
    tokens = model.generate(prompts, 12, batch_size=5, **settings)
    assert model.generate(prompts, 12, batch_size=2, **settings) == tokens
    assert model.generate(prompts[:2], 12, **settings) == tokens[:2]
    assert model.generate(prompts, 12, **{**settings, "seed": 6}) != tokens
    # Equal prompts at two places are two draws.
    same = model.generate([[7], [7]], 12, **settings)
    assert same[0] != same[1]


def test_a_cold_draw_is_the_greedy_choice(model: Any) -> None:
    prompts = [[3, 4, 5], [100]]
    greedy = model.generate(prompts, 10)
    assert model.generate(prompts, 10, sample=True, temperature=1e-4) == greedy
    assert model.generate(prompts, 10, sample=True, top_k=1) == greedy


def test_greedy_choice_obeys_the_constraints(model: Any) -> None:
    (free,) = model.generate([[3]], 20)
    (once,) = model.generate([[3]], 20, no_repeat_ngram_size=1)
    assert len(set(free)) < 20 == len(set(once))
    tokens: list[int] = []
    for _ in range(20):
        logits = model(np.array([[3, *tokens]]))[0, -1].numpy().astype(np.float64)
        for token in set(tokens):
            logits[token] *= 1.5 if logits[token] < 0 else 1 / 1.5
        tokens.append(int(np.argmax(logits)))
    assert model.generate([[3]], 20, repetition_penalty=1.5) == [tokens]


def test_progress_is_reported_after_each_batch(model: Any) -> None:
    done: list[int] = []
    model.generate([[1], [2], [3]], 2, batch_size=2, report=done.append)
    assert done == [2, 3]


def test_a_model_in_bfloat16_decodes_in_every_way(tiny: GPTConfig) -> None:
    model = build_gpt(tiny, 0.5, precision="mixed_bfloat16")
    ways: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"sample": True, "top_k": 5}]
    for settings in ways:
        outputs = model.generate([[1, 2, 3], [4]], 9, **settings)
        assert [len(tokens) for tokens in outputs] == [9, 9]
