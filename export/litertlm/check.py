"""Runs a bundle that has just been written, and compares it with the model."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from spdf_keras.config import DecodeConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import ExportError
from spdf_keras.evaluation.texts import generate_texts
from spdf_keras.export import runners
from spdf_keras.export.card import Logits, logit_error
from spdf_keras.export.graphs import exact_float32, keras_logits
from spdf_keras.export.litertlm.signatures import cache_input
from spdf_keras.export.tflite.check import ALLOWED_ERRORS
from spdf_keras.model.gpt import GPT

# The module of the runtime itself.
RUNTIME = "litert_lm"

_DECODED_TOKENS = 3
_NEW_TOKENS = 8
_TEXTS = ("name : Blue Spice | food : English", "a")

NOT_RUN_NOTE = (
    "The signatures ran in LiteRT. They did not run in LiteRT-LM itself, as "
    "litert-lm-api is not installed."
)


class Signatures:
    """Calls the signatures of a bundle's model as LiteRT-LM does.

    Args:
        path: The `.tflite` file.
        lengths: Tokens of each prefill.
    """

    def __init__(self, path: Path, lengths: list[int]) -> None:
        interpreter = Interpreter(model_path=str(path))
        self._decode = interpreter.get_signature_runner("decode")
        self._prefills = {
            length: interpreter.get_signature_runner(f"prefill_{length}")
            for length in lengths
        }
        self._caches = {
            name: np.zeros(details["shape"], np.float32)
            for name, details in self._decode.get_input_details().items()
            if name.startswith(cache_input(""))
        }
        self.cache_length = int(self._caches[cache_input("k_0")].shape[2])

    def prefill(self, token_ids: list[int], start: int, length: int) -> None:
        """Writes the caches of some tokens from position `start` on, padded."""
        tokens, positions = np.zeros((1, length), np.int32), np.zeros(length, np.int32)
        tokens[0, : len(token_ids)] = token_ids
        # The runtime leaves zeros behind the positions of the tokens.
        positions[: len(token_ids)] = np.arange(start, start + len(token_ids))
        self._caches = self._prefills[length](
            tokens=tokens, input_pos=positions, **self._caches
        )

    def decode(self, token_id: int, position: int) -> Logits:
        """Runs one token; returns logits `(vocabulary_size,)`."""
        outputs = self._decode(
            tokens=np.array([[token_id]], np.int32),
            input_pos=np.array([position], np.int32),
            **self._caches,
        )
        logits: Logits = outputs.pop("logits")[0, 0]
        self._caches = outputs
        return logits


def check_logits(
    path: Path, model: GPT, lengths: list[int], quantize: str
) -> tuple[float, float]:
    """Compares the logits behind every prefill; returns as `logit_error`.

    Raises:
        ExportError: If they are further from the model's than `quantize` allows.
    """
    return logit_error(_logit_pairs(path, model, lengths), ALLOWED_ERRORS[quantize])


def _logit_pairs(
    path: Path, model: GPT, lengths: list[int]
) -> Iterator[tuple[Logits, Logits]]:
    """Runs two pieces of every length, the second one padded, and some more tokens."""
    signatures, random = Signatures(path, lengths), np.random.default_rng(0)
    cache, vocabulary = signatures.cache_length, model.embedding.vocabulary_size
    for length in lengths:
        # A prefill needs as many free slots as it has tokens, padding included.
        second = -(-length // 2) if 2 * length <= cache else 0
        prompt = min(length + second, cache - 1)
        total = min(prompt + _DECODED_TOKENS, cache)
        token_ids = random.integers(vocabulary, size=total).tolist()
        expected: Any = keras_logits(model, [token_ids])[0]
        signatures.prefill(token_ids[: min(length, prompt)], 0, length)
        if second:
            signatures.prefill(token_ids[length:prompt], length, length)
        for position in range(prompt, total):
            yield expected[position], signatures.decode(token_ids[position], position)


def check_texts(
    bundle: Path, model: GPT, tokenizer: Tokenizer, separator: bool, cache_length: int
) -> tuple[int, int] | None:
    """Continues texts in LiteRT-LM, and counts those that are the model's.

    The runtime has a process of its own: it shares no symbols with TensorFlow.

    Returns:
        The number of equal texts, and of all; None where the runtime is not installed.

    Raises:
        ExportError: If the runtime does not take the bundle.
    """
    if importlib.util.find_spec(RUNTIME) is None:
        return None
    new_tokens = min(_NEW_TOKENS, cache_length // 2)
    room = cache_length - new_tokens - separator
    prompts = [tokenizer.decode(tokenizer.encode(text)[:room]) for text in _TEXTS]
    settings = DecodeConfig(max_new_tokens=new_tokens)
    with exact_float32():
        expected = generate_texts(
            model, tokenizer, prompts, settings, separator=separator
        )
    script = Path(runners.__path__[0]) / "run_litertlm.py"
    options = [option for prompt in prompts for option in ("--prompt", prompt)]
    done = subprocess.run(
        [sys.executable, str(script), str(bundle), *options]
        + ["--max-new-tokens", str(new_tokens)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise ExportError(
            f"LiteRT-LM does not run the bundle: {reason} Nothing was written."
        )
    received = [text.strip() for text in json.loads(done.stdout)["texts"]]
    return sum(map(str.__eq__, received, expected)), len(expected)
