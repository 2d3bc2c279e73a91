"""Runs a `.tflite` file that has just been written, and compares it with the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spdf_keras.export.card import MAX_RELATIVE_ERROR, Logits, logit_error
from spdf_keras.export.graphs import keras_logits
from spdf_keras.export.runners.run_tflite import TFLiteModel
from spdf_keras.model.gpt import GPT

# Largest error that is allowed, as a fraction of the largest logit.
ALLOWED_ERRORS = {"none": MAX_RELATIVE_ERROR, "fp16": 0.01, "int8": 0.15}

_DECODED_TOKENS = 4


def check_logits(path: Path, model: GPT, quantize: str) -> tuple[float, float]:
    """Compares the logits of both signatures; returns as `logit_error`.

    Raises:
        ExportError: If they are further from the model's than `quantize` allows.
    """
    return logit_error(_logit_pairs(path, model), ALLOWED_ERRORS[quantize])


def _logit_pairs(path: Path, model: GPT) -> Iterator[tuple[Logits, Logits]]:
    """Runs prompts of several lengths, each with some more tokens."""
    runner, random = TFLiteModel(path), np.random.default_rng(0)
    full = runner.prompt_length
    # A file with the last token's logits alone shows one row of each prompt.
    for prompt in sorted({full, max(1, full // 2), max(1, full // 3), 1}, reverse=True):
        length = min(prompt + _DECODED_TOKENS, runner.cache_length)
        token_ids = random.integers(runner.vocabulary_size, size=length).tolist()
        expected: Any = keras_logits(model, [token_ids])[0]
        received, caches = runner.prefill(token_ids[:prompt])
        yield expected[prompt - len(received) : prompt], received
        for position in range(prompt, length):
            received, caches = runner.decode(token_ids[position], position, caches)
            yield expected[position], received
