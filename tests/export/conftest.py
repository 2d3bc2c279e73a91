"""Small models and their `.tflite` files, made once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.export import ExportCard, to_tflite

SIZES = GPTConfig(2, 4, 64, vocabulary_size=512, max_sequence_length=64)


@pytest.fixture(scope="session")
def model() -> GPT:
    """75 % sparse; every weight counts, and masks hide weights that are not zero."""
    return _noisy(build_gpt(SIZES, sparsity=0.75, seed=1))


@pytest.fixture(scope="session")
def one_block() -> GPTConfig:
    """Sizes of `model` with one block, for tests that need no second one."""
    return GPTConfig(1, 4, 64, vocabulary_size=512, max_sequence_length=64)


@pytest.fixture(scope="session")
def small_model(one_block: GPTConfig) -> GPT:
    """As `model`, with one block."""
    return _noisy(build_gpt(one_block, sparsity=0.75, seed=1))


def _noisy(model: GPT) -> GPT:
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign_add(random.normal(0, 0.1, weight.shape).astype(np.float32))
    return model


@pytest.fixture(scope="session", autouse=True)
def _programs_are_compiled_once(tmp_path_factory: Any) -> Iterator[None]:
    """Lets the processes that run exported programs share what JAX has compiled."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("compiled")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        yield


@pytest.fixture(scope="session")
def _models_are_converted_once() -> Iterator[None]:
    """Keeps dense `.tflite` files: the sparse file of a model starts from its own."""
    from spdf_keras.export.tflite import exporter

    convert: Any = exporter._convert
    kept: list[tuple[Any, bytes]] = []

    def convert_once(model: GPT, kernels: Any, *options: Any) -> bytes:
        *sizes, _ = options  # the last is the stage, a new folder each time
        for (known, *known_sizes), content in kept:
            if known is model and known_sizes == sizes:
                return content
        content = bytes(convert(model, kernels, *options))
        kept.append(((model, *sizes), content))
        return content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "_convert", convert_once)
        yield


@pytest.fixture(scope="session")
def files(
    model: GPT, tmp_path_factory: Any, _models_are_converted_once: None
) -> dict[str, ExportCard]:
    """The cards of a dense and a sparse file: prompts of 16 tokens, caches of 48."""
    folder: Path = tmp_path_factory.mktemp("tflite")
    return {
        name: to_tflite(
            model,
            folder / f"{name}.tflite",
            sparse=name == "sparse",
            prompt_length=16,
            cache_length=48,
        )
        for name in ("dense", "sparse")
    }
