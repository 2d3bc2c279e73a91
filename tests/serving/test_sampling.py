"""The choice of tokens against `generate`'s own, which TensorFlow computes."""

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras.model.decoding.constraints import draw
from spdf_keras.serving.sampling import Sampler, log_probabilities


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 2.0])
@pytest.mark.parametrize("vocabulary", [7, 3000])
def test_tokens_are_those_of_the_graph(
    temperature: float, top_p: float, vocabulary: int
) -> None:
    rng = np.random.default_rng(0)
    logits = (4 * rng.standard_normal((50, vocabulary))).astype(np.float32)
    logits[:10] = np.round(logits[:10])  # many tokens with equal logits
    uniform = np.random.default_rng((5, 3)).random(50, np.float32)
    expected = draw(
        tf.constant(logits), tf.constant(uniform), temperature, 0, top_p
    ).numpy()
    sampler = Sampler(temperature, top_p, seed=5, index=3, max_tokens=50)
    assert [sampler.choose(line) for line in logits] == expected.tolist()


def test_temperature_zero_takes_the_first_of_the_likeliest() -> None:
    sampler = Sampler(0, 0.5, seed=0, index=0, max_tokens=1)
    assert sampler.choose(np.array([1.0, 3.0, 3.0])) == 1


def test_log_probabilities_add_up_to_one() -> None:
    logits = np.random.default_rng(0).standard_normal(20)
    own, ranked = log_probabilities(logits, 4, 20)
    assert sum(np.exp(value) for _, value in ranked) == pytest.approx(1)
    assert dict(ranked)[4] == own
    assert [token for token, _ in ranked] == np.argsort(-logits).tolist()
    assert log_probabilities(logits, 4, 0)[1] == []
