from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spdf_keras.config import GPTConfig, LoRAConfig, SparsityConfig


@pytest.fixture(scope="session")
def sizes() -> GPTConfig:
    return GPTConfig(2, 2, 32, 48, vocabulary_size=64, max_sequence_length=16)


@pytest.fixture(scope="session")
def token_ids() -> np.ndarray:
    return np.random.default_rng(0).integers(64, size=(4, 12)).astype(np.int32)


@pytest.fixture(scope="session")
def base(sizes: GPTConfig) -> Callable[..., Any]:
    """Builds a model without an adapter, whose biases are not zero."""

    def build(sparsity: float = 0.75, **settings: Any) -> Any:
        from spdf_keras.model.build import functional_gpt

        model = functional_gpt(sizes, SparsityConfig(sparsity, 3), **settings)
        rng = np.random.default_rng(4)
        for path, weight in model.named_weights().items():
            if path.endswith("bias"):
                weight.assign(rng.normal(0, 0.1, weight.shape))
        return model

    return build


@pytest.fixture(scope="session")
def adapted(base: Callable[..., Any]) -> Callable[..., Any]:
    """Builds a model whose adapter changes its function."""

    def build(
        sparsity: float = 0.75, lora: LoRAConfig | None = None, **settings: Any
    ) -> Any:
        from spdf_keras.adapters.attach import adapt

        model = adapt(base(sparsity, **settings), lora or LoRAConfig(4))
        rng = np.random.default_rng(5)
        for weight in model.named_adapters().values():
            weight.assign(rng.normal(0, 0.1, weight.shape))
        return model

    return build
