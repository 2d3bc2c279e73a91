from collections.abc import Iterator
from typing import Any

import pytest
from serving_site import TEXT, Site, serving

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.serving.engine import Engine
from spdf_keras.serving.service import Limits
from spdf_keras.serving.text import TokenTable

SIZES = GPTConfig(2, 2, 32, vocabulary_size=320, max_sequence_length=64)


@pytest.fixture(scope="session")
def table() -> TokenTable:
    """Tokens of a tokenizer that is smaller than the model's vocabulary."""
    return TokenTable(Tokenizer.train([TEXT], 300))


@pytest.fixture(scope="session")
def models() -> dict[str, Any]:
    """Two models whose tokens vary with every token before."""
    models = {"dense": build_gpt(SIZES), "sparse": build_gpt(SIZES, 0.5)}
    for model in models.values():
        for weight in model.trainable_weights:
            if len(weight.shape) == 2:
                weight.assign(10 * weight)
    return models


@pytest.fixture(scope="session")
def site(models: dict[str, Any], table: TokenTable) -> Iterator[Site]:
    """A server with two runs, few slots and small limits."""
    reason = "the server needs the extra `serve`"
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(package, reason=reason)
    engines = {
        name: Engine(model, table, slots=4, queue=12) for name, model in models.items()
    }
    with serving(engines, Limits(body_bytes=20_000, body_seconds=2)) as site:
        yield site
    for engine in engines.values():
        engine.close()
