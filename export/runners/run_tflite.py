"""Runs an exported `.tflite` file; needs NumPy and ai-edge-litert, nothing else.

    python run_tflite.py MODEL.tflite --token-ids 1,2,3 --max-new-tokens 16
    python run_tflite.py MODEL.tflite --tokenizer RUN/tokenizer --prompt "I am"
    python run_tflite.py MODEL.tflite --token-ids 1,2,3 --library libspdf_delegate.so

It prints one JSON object with the prompt, its greedy continuation, the seconds to
load, to the first token and per token, and the peak of memory. `profile_tflite.py`
times each operator. A file or a prompt that cannot be used ends it with one sentence
and exit status 2.

`--library` or the variable `SPDF_LITERT_LIBRARY` names the delegate that skips the
zeros of the file; without it the runtime multiplies them. The result says which
happened.

The card beside the file says whether the model was fine-tuned. If it was, the prompt
is closed by the end-of-text token, and the text ends at an empty line.
"""

import argparse
import ctypes
import hashlib
import json
import multiprocessing
import os
import re
import resource
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate
from numpy.typing import NDArray

Caches = dict[str, NDArray[np.float32]]

# The variable that names the library where no argument does.
LIBRARY = "SPDF_LITERT_LIBRARY"
# Number of sizes of each input and output; caches have four.
_RANKS = {"token_ids": 2, "lengths": 1, "position": 1, "logits": 3}
# Fine-tuned models end an output at an empty line.
_PARAGRAPH = "\n\n"


class RunError(ValueError):
    """The file or the prompt cannot be used; the message is one sentence."""


class TFLiteModel:
    """A `.tflite` file with the signatures `prefill` and `decode`.

    Args:
        path: The file.
        num_threads: Threads of the runtime; the runtime chooses if None.
        verify: Compare the file's checksum with that of its card, if there is a card.
        library: The delegate that skips zeros. If None, the variable
            `SPDF_LITERT_LIBRARY` names it; an empty string stands for no library.

    Attributes:
        prompt_length: Longest prompt, in tokens.
        cache_length: Longest sequence, prompt and continuation together.
        vocabulary_size: Token ids run from 0 to `vocabulary_size - 1`.
        skips_zeros: Whether the delegate has taken layers.
        products: A sentence about that.

    Raises:
        RunError: If the file is missing or damaged, `to_tflite` has not written it, or
            the library cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        num_threads: int | None = None,
        verify: bool = True,
        library: str | Path | None = None,
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise RunError(f"There is no file '{path}'.")
        if verify:
            _verify(path)
        delegate = _Delegate(
            os.environ.get(LIBRARY, "") if library is None else library
        )
        try:
            # The runtime raises these two for a bad file.
            interpreter = Interpreter(
                model_path=str(path),
                num_threads=num_threads,
                experimental_delegates=delegate.loaded,
            )
            runners = {
                name: interpreter.get_signature_runner(name)
                for name in interpreter.get_signature_list()
            }
        except (ValueError, RuntimeError) as error:
            raise RunError(f"Cannot load '{path}': {_line(error)}") from error
        if not {"prefill", "decode"} <= runners.keys():
            raise RunError(
                "A model must have the signatures prefill and decode. Received: "
                f"'{path}' with {', '.join(runners) or 'none'}."
            )
        self._path = path
        self.skips_zeros, self.products = delegate.result()
        self._prefill, self._decode = runners["prefill"], runners["decode"]
        _check_signatures(path, self._prefill, self._decode)
        inputs = self._prefill.get_input_details()
        self.prompt_length = int(_shape(inputs, "token_ids")[1])
        # Files with the logits of all tokens, and those of earlier versions, have none.
        self._takes_lengths = "lengths" in inputs
        self.cache_length = int(_shape(self._decode.get_input_details(), "k_0")[2])
        outputs = self._decode.get_output_details()
        # Where `decode` returns the token's own rows alone, they are written here.
        self._returns_rows = "new_k_0" in outputs
        logits = _shape(outputs, "logits")
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
        self._check_tokens(token_ids)
        # Caches of the padding are overwritten before they are read.
        padded = np.zeros((1, self.prompt_length), np.int32)
        padded[0, : len(token_ids)] = token_ids
        inputs = {"token_ids": padded}
        if self._takes_lengths:
            inputs["lengths"] = np.array([len(token_ids)], np.int32)
        outputs = self._run(self._prefill, **inputs)
        return outputs.pop("logits")[0, : len(token_ids)], outputs

    def decode(
        self, token_id: int, position: int, caches: Caches
    ) -> tuple[NDArray[np.float32], Caches]:
        """Runs one more token.

        Args:
            token_id: The token.
            position: Its position, below `cache_length`.
            caches: From `prefill` or the last `decode`. A file whose `decode` returns
                rows gets them written into these arrays.

        Returns:
            Logits `(vocabulary_size,)`, and the caches with the token's own.

        Raises:
            RunError: If the token id, the position or a cache is out of range.
        """
        self._check_tokens([token_id])
        if not 0 <= position < self.cache_length:
            raise RunError(
                f"A position must be in [0, {self.cache_length}), the caches of this "
                f"file. Received: {position}."
            )
        outputs = self._run(
            self._decode,
            token_ids=np.array([[token_id]], np.int32),
            position=np.array([position], np.int32),
            **caches,
        )
        logits = outputs.pop("logits")[0, 0]
        if not self._returns_rows:
            return logits, outputs
        for name, row in outputs.items():
            caches[name.removeprefix("new_")][:, :, position] = row[:, :, 0]
        return logits, caches

    def _check_tokens(self, token_ids: Sequence[int]) -> None:
        if not 0 <= min(token_ids) <= max(token_ids) < self.vocabulary_size:
            raise RunError(
                f"Token ids must be in [0, {self.vocabulary_size}). Received: "
                f"{min(token_ids)} to {max(token_ids)}."
            )

    def _run(self, signature: Any, **inputs: Any) -> Any:
        try:
            return signature(**inputs)
        except (ValueError, RuntimeError) as error:
            raise RunError(f"Cannot run '{self._path}': {_line(error)}") from error

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
            RunError: As `prefill`, or if `max_new_tokens` is negative.
        """
        if max_new_tokens < 0:
            raise RunError(
                "The number of new tokens must not be negative. Received: "
                f"{max_new_tokens}."
            )
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


class _Delegate:
    """The delegate, and what it has done.

    Args:
        library: Path of the library; empty for none.
    """

    def __init__(self, library: str | Path) -> None:
        self.loaded: list[Any] | None = None
        self._library = str(library)
        if not self._library:
            return
        path = os.path.abspath(self._library)
        try:
            # The runtime loads the same library, and the counter is the library's.
            self._count = ctypes.CDLL(path).spdf_layers_taken
            self._before = self._count()
            self.loaded = [load_delegate(path)]
        except (OSError, AttributeError, ValueError) as error:
            raise RunError(
                f"Cannot load the library '{library}': {_line(error)}"
            ) from error

    def result(self) -> tuple[bool, str]:
        """Returns whether zeros are skipped, and a sentence about it."""
        if self.loaded is None:
            return False, f"Zeros are multiplied: {LIBRARY} names no library."
        layers = self._count() - self._before
        if not layers:
            return False, "Zeros are multiplied: no layer has enough of them."
        return True, f"The delegate has taken {layers} layers, and skips their zeros."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Runs an exported .tflite file.")
    parser.add_argument("model", help="the .tflite file")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--token-ids", help="the prompt, as in 1,2,3")
    prompt.add_argument("--prompt", help="the prompt as text; needs --tokenizer")
    parser.add_argument("--tokenizer", help="folder of vocab.json and merges.txt")
    parser.add_argument(
        "--separator",
        action=argparse.BooleanOptionalAction,
        help="close the prompt, and end the text at an empty line, as fine-tuning does "
        "(default: if the card says so)",
    )
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--end-token-ids", default="", help="tokens to stop at")
    parser.add_argument("--num-threads", type=int)
    parser.add_argument(
        "--library",
        help=f"delegate that skips zeros (default: the variable {LIBRARY})",
    )
    options = parser.parse_args(arguments)
    try:
        tokenizer = _tokenizer(options)
        ends = _token_ids(options.end_token_ids)
        if tokenizer is None:
            prompt_ids = _token_ids(options.token_ids)
        else:
            prompt_ids, text_ends = _encode(
                tokenizer, options.prompt, options.separator
            )
            ends += text_ends
        result = _measured(options, prompt_ids, ends)
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    if tokenizer is not None:
        text = tokenizer.decode(result["new_token_ids"])
        if options.separator:
            text = text.split(_PARAGRAPH)[0].strip()
        result["text"] = text
    print(json.dumps(result))
    return 0


def _measured(
    options: argparse.Namespace, prompt: list[int], ends: list[int]
) -> dict[str, Any]:
    """Continues a prompt, and measures time and memory."""
    start = time.perf_counter()
    model = TFLiteModel(options.model, options.num_threads, library=options.library)
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
        "skips_zeros": model.skips_zeros,
        "load_s": loaded - start,
        "first_use_s": ready - loaded,
        "first_token_s": first - ready,
        "token_s": max(rest, 0.0) / max(len(new) - 1, 1),
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    }


def _tokenizer(options: argparse.Namespace) -> Any:
    if options.prompt is None:
        return None
    if options.separator is None:
        options.separator = _card(Path(options.model)).get("separator") is True
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


def _encode(
    tokenizer: Any, prompt: str, separator: bool
) -> tuple[list[int], list[int]]:
    """Encodes a prompt; returns its token ids, and those that end its continuation."""
    try:
        token_ids, end = list(tokenizer.encode(prompt)), tokenizer.end_token_id
    except UnicodeEncodeError as error:  # the shell gave bytes that are no UTF-8
        raise RunError("`--prompt` must be text in UTF-8.") from error
    if not separator:
        return token_ids, [end]
    paragraph = list(tokenizer.encode(_PARAGRAPH))
    return [*token_ids, end], [end, *(paragraph if len(paragraph) == 1 else [])]


def _check_signatures(path: Path, prefill: Any, decode: Any) -> None:
    """Refuses a file of another program, which has other inputs or outputs."""
    caches = {n for n in decode.get_input_details() if re.fullmatch("[kv]_[0-9]+", n)}
    caches |= {"k_0"}
    outputs = decode.get_output_details()
    rows = {f"new_{name}" for name in caches}
    after = rows if rows & outputs.keys() else caches
    tokens = {"token_ids"}
    for place, details, needed, allowed in (
        ("inputs of prefill", prefill.get_input_details(), tokens, {"lengths"}),
        ("outputs of prefill", prefill.get_output_details(), {"logits", *caches}, ()),
        (
            "inputs of decode",
            decode.get_input_details(),
            {*tokens, "position", *caches},
            (),
        ),
        ("outputs of decode", outputs, {"logits", *after}, ()),
    ):
        missing = sorted(needed - details.keys())
        unknown = sorted(details.keys() - needed - {*allowed})
        if missing or unknown:
            wrong = f"lack {missing[0]}" if missing else f"have {unknown[0]} too"
            raise RunError(
                f"`to_tflite` has not written '{path}': the {place} {wrong}."
            )
        for name, about in details.items():
            rank = _RANKS.get(name, 4)
            if len(about["shape"]) != rank:
                raise RunError(
                    f"`to_tflite` has not written '{path}': {name} of the {place} has "
                    f"the shape {about['shape'].tolist()}, not one of {rank} sizes."
                )


def _card(path: Path) -> dict[str, Any]:
    """Reads the card beside a file; it is empty where there is none."""
    card = path.with_name(f"{path.name}.card.json")
    if not card.is_file():
        return {}
    try:
        content = json.loads(card.read_text("utf-8"))
        if not isinstance(content["sha256"], str):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"The card '{card}' has no checksum of '{path.name}': export it again, or "
            "remove the card."
        ) from error
    return dict(content)


def _verify(path: Path) -> None:
    card = _card(path)
    if not card:
        return
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != card["sha256"]:
        raise RunError(
            f"'{path}' is damaged: its checksum is not that of its card, "
            f"'{path.name}.card.json'."
        )


def _line(error: Exception) -> str:
    """Returns the runtime's words on one line."""
    return " ".join(str(error).split())


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise RunError(
            f"Token ids must be integers with commas between. Received: '{text}'."
        ) from error


def _shape(details: dict[str, Any], name: str) -> Any:
    return details[name]["shape"]


def _run_apart() -> int:
    """Runs `main` in a process of its own, so that a crash ends in a sentence too."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return main()
    process = multiprocessing.get_context("fork").Process(
        target=lambda: sys.exit(main())
    )
    process.start()
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process gets it itself
    process.join()
    status = process.exitcode or 0
    if -status in (signal.SIGINT, signal.SIGTERM):
        return 128 - status
    if status < 0:
        print(
            f"The runtime has crashed with {signal.Signals(-status).name}: the file is "
            "damaged, or too large for this machine.",
            file=sys.stderr,
        )
        return 2
    return status


if __name__ == "__main__":
    sys.exit(_run_apart())
