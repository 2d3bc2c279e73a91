"""Beam search against plain NumPy, exhaustive search and KerasNLP."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras import build_gpt
from spdf_keras.config import DecodeConfig, GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.model.decoding.generator import Generator
from spdf_keras.model.decoding.search import search_function

Logits = Callable[[list[int]], NDArray[np.float64]]


def gpt(vocabulary_size: int, context: int = 32) -> Any:
    model = build_gpt(
        GPTConfig(
            2, 2, 16, vocabulary_size=vocabulary_size, max_sequence_length=context
        ),
        0.5,
    )
    # Ten times wider weights: distributions that are far from uniform.
    for weight in model.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(10 * weight)
    return model


@pytest.fixture(scope="module")
def small() -> Any:
    return gpt(24)


@pytest.fixture(scope="module")
def logits(small: Any) -> Logits:
    return logits_of(small)


def logits_of(model: Any) -> Logits:
    """The next token's logits by a full forward pass: no cache."""
    forward = tf.function(model)
    context = model.embedding.max_sequence_length
    known: dict[tuple[int, ...], NDArray[np.float64]] = {}

    def logits(tokens: list[int]) -> NDArray[np.float64]:
        key = tuple(tokens)
        if key not in known:
            # Padded, for one trace; the model is causal.
            padded = np.zeros((1, context), np.int32)
            padded[0, : len(tokens)] = tokens
            row = forward(tf.constant(padded))[0, len(tokens) - 1]
            known[key] = row.numpy().astype(np.float64)
        return known[key]

    return logits


def log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def reference_beam_search(
    logits: Logits, prompt: Sequence[int], ends: Sequence[int], settings: DecodeConfig
) -> tuple[list[int], float]:
    """The LoRA recipe's search, a beam and a token at a time, always to the limit."""
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    best: tuple[list[int], float] = ([], -np.inf)
    for step in range(settings.max_new_tokens):
        candidates = []
        for tokens, score in beams:
            x = logits([*prompt, *tokens]).copy()
            for token in set(tokens):
                penalty = settings.repetition_penalty
                x[token] = x[token] * penalty if x[token] < 0 else x[token] / penalty
            n = settings.no_repeat_ngram_size
            if n:
                grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
                for gram in grams:
                    if gram[:-1] == tuple(tokens[len(tokens) - n + 1 :]):
                        x[gram[-1]] = -np.inf
            if np.isneginf(x).all():  # nothing may follow: it ends, without an end
                final = score / len(tokens) ** settings.length_penalty
                best = max(best, (tokens, final), key=lambda pair: pair[1])
                continue
            values = score + log_softmax(x)
            candidates += [([*tokens, t], v) for t, v in enumerate(values)]
        candidates.sort(key=lambda pair: -pair[1])
        beams = []
        for tokens, score in candidates[: settings.num_beams]:
            last = step == settings.max_new_tokens - 1
            if tokens[-1] in ends or last:
                final = score / len(tokens) ** settings.length_penalty
                if final > best[1]:
                    best = tokens, final
            else:
                beams.append((tokens, score))
        if not beams:
            break
    tokens, score = best
    return (tokens[:-1] if tokens[-1] in ends else tokens), score


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_beams": 2},
        {"num_beams": 10},
        {"length_penalty": 0.0},
        {"length_penalty": 2.5},
        {"length_penalty": -1.0},
        {"no_repeat_ngram_size": 1, "max_new_tokens": 12},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 4},
        {"no_repeat_ngram_size": 18},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 1e6, "max_new_tokens": 12},
        {"num_beams": 10, "length_penalty": 0.8, "no_repeat_ngram_size": 4},
    ],
)
def test_beam_search_equals_a_plain_one_in_float64(
    small: Any, logits: Logits, changes: dict[str, Any]
) -> None:
    fields = {"num_beams": 4, "length_penalty": 0.8, "max_new_tokens": 17, **changes}
    settings = DecodeConfig(**fields)
    prompts, ends = [[3], [1, 2, 3, 4, 5, 6, 7], [9, 9], [20, 4, 11]], [0, 13]
    batch = Generator(small)._batch(prompts, range(4), ends, settings)
    found = search_function(small, settings)(batch)
    for row, prompt in enumerate(prompts):
        expected, score = reference_beam_search(logits, prompt, ends, settings)
        assert found.token_ids[row, : found.counts[row]].numpy().tolist() == expected
        # A sum of float32 log-probabilities.
        assert float(found.scores[row]) == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 1, "num_beams": 5},
        {"no_repeat_ngram_size": 2, "num_beams": 3},
        {"no_repeat_ngram_size": 1, "length_penalty": -1.0},
        {"no_repeat_ngram_size": 2, "length_penalty": 0.0},
        {"no_repeat_ngram_size": 2, "length_penalty": 2.0, "repetition_penalty": 1.5},
    ],
)
@pytest.mark.parametrize("ends", [[], [3]])
def test_a_beam_that_no_token_may_follow_ends_there(
    changes: dict[str, Any], ends: list[int]
) -> None:
    model = gpt(5, context=64)
    logits = logits_of(model)
    settings = DecodeConfig(**{"num_beams": 2, "max_new_tokens": 40, **changes})
    prompts = [[2, 4], [1], [3, 3, 3]]
    batch = Generator(model)._batch(prompts, range(3), ends, settings)
    found = search_function(model, settings)(batch)
    for row, prompt in enumerate(prompts):
        expected, score = reference_beam_search(logits, prompt, ends, settings)
        tokens = found.token_ids[row, : found.counts[row]].numpy().tolist()
        assert tokens == expected and found.counts[row] >= 0
        assert float(found.scores[row]) == pytest.approx(score, abs=1e-4)
        if not ends and settings.no_repeat_ngram_size == 1:
            assert sorted(tokens) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_a_row_that_no_token_may_follow_ends_there(size: int, sample: bool) -> None:
    model = gpt(5, context=64)
    prompts, settings = [[2, 4], [1], [3, 3, 3]], {"no_repeat_ngram_size": size}
    outputs = model.generate(prompts, 40, sample=sample, **settings)
    for tokens in outputs:
        grams = list(zip(*(tokens[i:] for i in range(size)), strict=False))
        assert len(set(grams)) == len(grams) and len(tokens) < 40
        # Every token that could have come next would repeat an n-gram.
        last = tuple(tokens[len(tokens) - size + 1 :])
        assert {(*last, token) for token in range(5)} <= set(grams)
    # One that ends does not keep another from going on.
    assert [model.generate([p], 40, **settings)[0] for p in prompts] == model.generate(
        prompts, 40, **settings
    )


@pytest.mark.parametrize("penalty", [0.0, 0.8, 1.5])
def test_enough_beams_find_the_best_of_all_continuations(penalty: float) -> None:
    model = gpt(5)
    prompt, end, steps = [2, 4], 0, 4
    logits = logits_of(model)
    scores = {}
    for length in range(1, steps + 1):
        for tokens in itertools.product(range(5), repeat=length):
            if end in tokens[:-1] or (tokens[-1] != end and length < steps):
                continue
            total = sum(
                log_softmax(logits([*prompt, *tokens[:i]]))[token]
                for i, token in enumerate(tokens)
            )
            scores[tokens] = total / length**penalty
    best = max(scores, key=lambda tokens: scores[tokens])
    assert len(scores) == 1 + 4 + 16 + 64 * 5
    # 5 beams of 5 tokens would prune; beams may be at most the vocabulary.
    wide = DecodeConfig(num_beams=5, length_penalty=penalty, max_new_tokens=steps)
    reference, _ = reference_beam_search(logits, prompt, [end], wide)
    (found,) = model.generate(
        [prompt], steps, [end], num_beams=5, length_penalty=penalty
    )
    assert found == reference
    assert tuple(found) in (best, best[:-1])


def test_beam_search_without_end_equals_keras_nlp(small: Any, logits: Logits) -> None:
    import keras_nlp

    prompt, steps, beams = [7, 8, 9], 8, 4

    def next_token(prompt: Any, cache: Any, index: Any) -> Any:
        rows = [
            logits(row[: int(index)].tolist()) for row in np.asarray(prompt).astype(int)
        ]
        hidden = tf.zeros((len(rows), 1))
        return tf.constant(np.array(rows), tf.float32), hidden, cache

    sampler = keras_nlp.samplers.BeamSampler(num_beams=beams)
    padded = tf.constant([prompt + [0] * steps])
    mask = tf.constant([[True] * len(prompt) + [False] * steps])
    tf.config.run_functions_eagerly(True)
    try:
        output = sampler(next=next_token, prompt=padded, index=len(prompt), mask=mask)
    finally:
        tf.config.run_functions_eagerly(False)
    expected = np.asarray(output)[0, len(prompt) :].tolist()
    assert small.generate([prompt], steps, num_beams=beams) == [expected]


def test_beams_of_one_batch_do_not_see_each_other(small: Any) -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 24, n).tolist() for n in (1, 20, 7, 16, 17, 3)]
    settings = {"num_beams": 5, "no_repeat_ngram_size": 3, "end_token_ids": [0]}
    together = small.generate(prompts, 14, batch_size=6, **settings)
    alone = [small.generate([p], 14, batch_size=1, **settings)[0] for p in prompts]
    assert together == alone


def test_a_beam_stops_at_the_end_of_the_context(small: Any, logits: Logits) -> None:
    prompts = [[3] * 28, [4] * 5]
    outputs = small.generate(prompts, 20, num_beams=3)
    assert [len(output) for output in outputs] == [4, 20]
    limited = DecodeConfig(num_beams=3, max_new_tokens=4)
    assert outputs[0] == reference_beam_search(logits, prompts[0], [], limited)[0]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("penalty", [1e38, 1e-37])
def test_a_penalty_that_is_far_from_1_bans_nothing(beams: int, penalty: float) -> None:
    model = gpt(5, context=64)
    settings = {"repetition_penalty": penalty, "num_beams": beams}
    for tokens in model.generate([[2, 4], [1]], 20, **settings):
        assert len(tokens) == 20 and set(tokens) <= set(range(5))


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"sample": True}])
def test_a_model_that_has_diverged_is_refused(settings: dict[str, Any]) -> None:
    model = gpt(5)
    model.trainable_weights[0].assign(model.trainable_weights[0] * float("nan"))
    with pytest.raises(InputError, match="logits must be finite"):
        model.generate([[1]], **settings)


def test_no_ngram_occurs_twice(small: Any) -> None:
    outputs = small.generate(
        [[5, 6], [1]], 24, num_beams=4, no_repeat_ngram_size=2, batch_size=2
    )
    for tokens in outputs:
        grams = list(itertools.pairwise(tokens))
        assert len(tokens) == 24 and len(set(grams)) == len(grams)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_beams": 25}, "at most the vocabulary of 24 tokens. Received: .*=25"),
        ({"num_beams": 0}, "`num_beams` must be positive. Received: num_beams=0"),
        ({"num_beams": 2, "sample": True}, "must be 1 where `sample` is true"),
        ({"top_p": 0.0}, r"`top_p` must be in \(0, 1\]. Received: top_p=0.0"),
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"length_penalty": float("nan")}, "`length_penalty` must be finite"),
        ({"beams": 3}, "Unknown setting `decode.beams`. Known here: .*num_beams"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    small: Any, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        small.generate([[1]], **settings)
