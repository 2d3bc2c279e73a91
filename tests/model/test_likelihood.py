"""Log-probabilities of given tokens against float64 in NumPy."""

from typing import Any

import numpy as np
import pytest

from spdf_keras import build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.model.likelihood import Likelihood


@pytest.fixture(scope="module")
def model(tiny: GPTConfig) -> Any:
    model = build_gpt(tiny, 0.5)
    for weight in model.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(10 * weight)
    return model


def reference(model: Any, ids: list[int], start: int) -> tuple[np.ndarray, np.ndarray]:
    logits = model(np.array([ids[:-1]]))[0].numpy().astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(logprobs, np.array(ids[1:])[:, None], 1)[:, 0]
    return own[start - 1 :], logprobs[start - 1 :]


def test_sequences_of_any_lengths_have_the_scores_of_each_alone(model: Any) -> None:
    rng = np.random.default_rng(0)
    sizes = [(2, 1), (65, 1), (40, 37), (65, 64), (9, 3), (33, 2)]
    sequences = [(rng.integers(0, 512, n).tolist(), start) for n, start in sizes]
    done: list[int] = []
    found = Likelihood(model, top=3, batch_tokens=130)(sequences, done.append)
    assert done[-1] == len(sequences) and len(done) > 2
    for (ids, start), scores in zip(sequences, found, strict=True):
        own, every = reference(model, ids, start)
        # Logits reach 40, in float32.
        np.testing.assert_allclose(scores.logprobs, own, atol=2e-4)
        best = every.argmax(-1)
        np.testing.assert_array_equal(scores.is_best, best == np.array(ids[start:]))
        np.testing.assert_array_equal(scores.top_token_ids[:, 0], best)
        ranked = -np.sort(-every)[:, :3]
        np.testing.assert_allclose(scores.top_logprobs, ranked, atol=2e-4)


def test_more_sequences_are_traced_once(model: Any) -> None:
    likelihood = Likelihood(model)
    for length in (3, 30, 60):
        likelihood([(list(range(length)), 1)] * (length // 3))
    assert likelihood._score.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("length, start", [(66, 1), (5, 0), (5, 5), (1, 1)])
def test_a_sequence_that_cannot_be_scored_is_refused(
    model: Any, length: int, start: int
) -> None:
    with pytest.raises(InputError, match="2 to 65 tokens.*Received: "):
        Likelihood(model)([([1] * length, start)])
