"""Runs an exported `.tflite` file; needs NumPy and ai-edge-litert, nothing else.

    python run_tflite.py MODEL.tflite --token-ids 1,2,3 --max-new-tokens 16
    python run_tflite.py MODEL.tflite --tokenizer RUN/tokenizer --prompt "I am"

It prints one JSON object with the prompt, its greedy continuation, the seconds to
load, to the first token and per token, and the peak of memory. `profile_tflite.py`
times each operator. A file or a prompt that cannot be used ends it with one sentence
and exit status 2.
"""

import argparse
import hashlib
import json
import resource
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

Caches = dict[str, NDArray[np.float32]]


class RunError(ValueError):
    """The file or the prompt cannot be used; the message is one sentence."""


class TFLiteModel:
    """A `.tflite` file with the signatures `prefill` and `decode`.

    Args:
        path: The file.
        num_threads: Threads of the runtime; the runtime chooses if None.
        verify: Compare the file's checksum with that of its card, if there is a card.

    Attributes:
        prompt_length: Longest prompt, in tokens.
        cache_length: Longest sequence, prompt and continuation together.
        vocabulary_size: Token ids run from 0 to `vocabulary_size - 1`.

    Raises:
        RunError: If the file is missing or damaged, or `to_tflite` has not written it.
    """

    def __init__(
        self, path: str | Path, num_threads: int | None = None, verify: bool = True
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise RunError(f"There is no file '{path}'.")
        if verify:
            _verify(path)
        try:
            # The runtime raises these two for a bad file.
            interpreter = Interpreter(model_path=str(path), num_threads=num_threads)
        except (ValueError, RuntimeError) as error:
            raise RunError(f"Cannot load '{path}': {str(error).strip()}") from error
        signatures = interpreter.get_signature_list()
        if not {"prefill", "decode"} <= set(signatures):
            raise RunError(
                "A model must have the signatures prefill and decode. Received: "
                f"'{path}' with {', '.join(signatures) or 'none'}."
            )
        self._prefill = interpreter.get_signature_runner("prefill")
        self._decode = interpreter.get_signature_runner("decode")
        inputs = self._prefill.get_input_details()
        self.prompt_length = int(_shape(inputs, "token_ids")[1])
        # Files with the logits of all tokens, and those of earlier versions, have none.
        self._takes_lengths = "lengths" in inputs
        self.cache_length = int(_shape(self._decode.get_input_details(), "k_0")[2])
        logits = _shape(self._decode.get_output_details(), "logits")
        self.vocabulary_size = int(logits[2])

    def prefill(self, token_ids: Sequence[int]) -> tuple[NDArray[np.float32], Caches]:
        """Runs a prompt at once.

        Args:
            token_ids: 1 to `prompt_length` token ids.

        Returns:
            Logits `(rows, vocabulary_size)`, and the caches. The last row continues the
            prompt; there is a row per token in files with all logits, else this alone.

        Raises:
            RunError: If the prompt's length or a token id is out of range.
        """
        if not 1 <= len(token_ids) <= self.prompt_length:
            raise RunError(
                f"A prompt must have 1 to {self.prompt_length} tokens, the prompt "
                f"length of this file. Received: {len(token_ids)} tokens."
            )
        if not 0 <= min(token_ids) <= max(token_ids) < self.vocabulary_size:
            raise RunError(
                f"Token ids must be in [0, {self.vocabulary_size}). Received: "
                f"{min(token_ids)} to {max(token_ids)}."
            )
        # Caches of the padding are overwritten before they are read.
        padded = np.zeros((1, self.prompt_length), np.int32)
        padded[0, : len(token_ids)] = token_ids
        inputs = {"token_ids": padded}
        if self._takes_lengths:
            inputs["lengths"] = np.array([len(token_ids)], np.int32)
        outputs = self._prefill(**inputs)
        return outputs.pop("logits")[0, : len(token_ids)], outputs

    def decode(
        self, token_id: int, position: int, caches: Caches
    ) -> tuple[NDArray[np.float32], Caches]:
        """Runs one more token.

        Args:
            token_id: The token.
            position: Its position, below `cache_length`.
            caches: From `prefill` or the last `decode`.

        Returns:
            Logits `(vocabulary_size,)`, and the caches with the token's own.
        """
        outputs = self._decode(
            token_ids=np.array([[token_id]], np.int32),
            position=np.array([position], np.int32),
            **caches,
        )
        return outputs.pop("logits")[0, 0], outputs

    def generate(
        self,
        token_ids: Sequence[int],
        max_new_tokens: int = 16,
        end_token_ids: Sequence[int] = (),
    ) -> list[int]:
        """Continues a prompt with the likeliest tokens.

        Args:
            token_ids: The prompt.
            max_new_tokens: Largest number of tokens to add; `cache_length` bounds it
                too.
            end_token_ids: Tokens that end the continuation, and are not returned.

        Returns:
            The new token ids.

        Raises:
            RunError: As `prefill`.
        """
        logits, caches = self.prefill(token_ids)
        room = min(max_new_tokens, self.cache_length - len(token_ids))
        new: list[int] = []
        row = logits[-1]
        while len(new) < room and (token := int(row.argmax())) not in end_token_ids:
            new.append(token)
            if len(new) < room:
                position = len(token_ids) + len(new) - 1
                row, caches = self.decode(token, position, caches)
        return new


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Runs an exported .tflite file.")
    parser.add_argument("model", help="the .tflite file")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--token-ids", help="the prompt, as in 1,2,3")
    prompt.add_argument("--prompt", help="the prompt as text; needs --tokenizer")
    parser.add_argument("--tokenizer", help="folder of vocab.json and merges.txt")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--end-token-ids", default="", help="tokens to stop at")
    parser.add_argument("--num-threads", type=int)
    options = parser.parse_args(arguments)
    try:
        tokenizer = _tokenizer(options)
        if tokenizer is None:
            prompt_ids = _token_ids(options.token_ids)
        else:
            prompt_ids = _encode(tokenizer, options.prompt)
        ends = _token_ids(options.end_token_ids)
        if tokenizer is not None:
            ends.append(tokenizer.end_token_id)
        result = _measured(options, prompt_ids, ends)
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    if tokenizer is not None:
        result["text"] = tokenizer.decode(result["new_token_ids"])
    print(json.dumps(result))
    return 0


def _measured(
    options: argparse.Namespace, prompt: list[int], ends: list[int]
) -> dict[str, Any]:
    """Continues a prompt, and measures time and memory."""
    start = time.perf_counter()
    model = TFLiteModel(options.model, options.num_threads)
    loaded = time.perf_counter()
    model.generate(prompt, 2)  # the first call of each signature sets it up
    ready = time.perf_counter()
    model.generate(prompt, 1)
    first = time.perf_counter()
    new = model.generate(prompt, options.max_new_tokens, ends)
    rest = time.perf_counter() - first - (first - ready)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "token_ids": prompt,
        "new_token_ids": new,
        "load_s": loaded - start,
        "first_use_s": ready - loaded,
        "first_token_s": first - ready,
        "token_s": max(rest, 0.0) / max(len(new) - 1, 1),
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    }


def _tokenizer(options: argparse.Namespace) -> Any:
    if options.prompt is None:
        return None
    if options.tokenizer is None:
        raise RunError("`--prompt` needs `--tokenizer`, a folder with vocab.json.")
    # By its path, so that it is found beside this file in a package and outside of one.
    file = Path(__file__).with_name("plain_tokenizer.py")
    try:
        return runpy.run_path(str(file))["PlainTokenizer"](options.tokenizer)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"Cannot read the tokenizer in '{options.tokenizer}': {error}."
        ) from error


def _encode(tokenizer: Any, prompt: str) -> list[int]:
    try:
        return list(tokenizer.encode(prompt))
    except UnicodeEncodeError as error:  # the shell gave bytes that are no UTF-8
        raise RunError("`--prompt` must be text in UTF-8.") from error


def _verify(path: Path) -> None:
    card = path.with_name(f"{path.name}.card.json")
    if not card.is_file():
        return
    try:
        expected = json.loads(card.read_text("utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"The card '{card}' has no checksum of '{path.name}': export it again, or "
            "remove the card."
        ) from error
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != expected:
        raise RunError(
            f"'{path}' is damaged: its checksum is not that of its card, '{card.name}'."
        )


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise RunError(
            f"Token ids must be integers with commas between. Received: '{text}'."
        ) from error


def _shape(details: dict[str, Any], name: str) -> Any:
    return details[name]["shape"]


if __name__ == "__main__":
    sys.exit(main())
