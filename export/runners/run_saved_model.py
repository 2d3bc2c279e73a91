"""Runs an exported SavedModel; needs TensorFlow alone, neither Keras nor spdf_keras.

    python run_saved_model.py FOLDER --token-ids 1,2,3 --max-new-tokens 16
    python run_saved_model.py FOLDER --token-ids 1,2,3 --library libspdf_operations.so

It prints one JSON object with the prompt, its greedy continuation, and whether zeros
were skipped. On CPUs, `--library` or the variable `SPDF_TENSORFLOW_LIBRARY` names a
library that skips the zeros of a folder that was written with `--skip-zeros cpu`. A
folder, a library or a prompt that cannot be used ends it with one sentence and exit
status 2.
"""

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

# The variable that names the library where no argument does.
LIBRARY = "SPDF_TENSORFLOW_LIBRARY"

_PLAIN, _SKIPPING = ["serve"], ["serve", "spdf"]
_LARGEST = 2**31 - 1
# Beginnings of lines in TensorFlow's messages that say where, but not why.
_NO_REASON = ("Graph execution error", "Detected at", "<stack traces", "[[")
_CHECK = "assertion failed: ["


class RunError(ValueError):
    """The folder, the library or the prompt cannot be used, in one sentence."""


class SavedModel:
    """A folder that `to_saved_model` wrote, with the signature `generate`.

    Args:
        folder: The folder.
        library: The library that skips zeros on CPUs. If None, the variable
            `SPDF_TENSORFLOW_LIBRARY` names it; an empty string stands for no library.

    Attributes:
        skips_zeros: Whether the graph that runs skips the zeros.
        products: A sentence that says so, and why.

    Raises:
        RunError: If the folder is no such SavedModel, a file is damaged, or the
            library cannot be used.
    """

    def __init__(self, folder: str | Path, library: str | Path | None = None) -> None:
        named = os.environ.get(LIBRARY, "") if library is None else str(library)
        with _cannot_load(folder):
            self.skips_zeros = bool(named) and set(_SKIPPING) in _tags(Path(folder))
        if self.skips_zeros:
            with _cannot_load(named):
                tf.load_op_library(os.path.abspath(named))
            self.products = f"Zeros are skipped by '{named}'."
        elif named:
            self.products = "Zeros are multiplied: the folder has one graph."
        else:
            self.products = f"Zeros are multiplied: {LIBRARY} names no library."
        with _cannot_load(folder):
            # This object owns the variables, so it must live as long as the signature.
            self._loaded = tf.saved_model.load(
                str(folder), tags=_SKIPPING if self.skips_zeros else _PLAIN
            )
            signatures = self._loaded.signatures
        if "generate" not in signatures:
            raise RunError(
                "A SavedModel must have the signature generate. Received: "
                f"'{folder}' with {', '.join(signatures) or 'none'}."
            )
        self._generate = signatures["generate"]
        inputs = self._generate.structured_input_signature[1]
        # Folders of earlier versions take one limit for all prompts.
        self._limits = [1] if inputs["max_new_tokens"].shape.rank else []

    def generate(self, token_ids: Sequence[int], max_new_tokens: int = 16) -> list[int]:
        """Continues a prompt with the likeliest tokens.

        Args:
            token_ids: The prompt.
            max_new_tokens: Largest number of tokens to add; the context bounds it too.

        Returns:
            The new token ids.

        Raises:
            RunError: If the prompt is empty, does not fit or has an id that is no
                token, or the model does not run.
        """
        # Folders of earlier versions take a negative id for 0.
        outside = [token for token in token_ids if not 0 <= token <= _LARGEST]
        if outside:
            raise RunError(
                "`token_ids` must be those of the model's tokens, from 0 on. "
                f"Received: {outside[0]}."
            )
        limit = min(max_new_tokens, _LARGEST)
        try:
            outputs = self._generate(
                token_ids=tf.constant([list(token_ids)], tf.int32),
                lengths=tf.constant([len(token_ids)], tf.int32),
                max_new_tokens=tf.fill(self._limits, tf.constant(limit, tf.int32)),
            )
        except tf.errors.OpError as error:
            raise RunError(_sentence(error)) from error
        count = int(outputs["lengths"][0])
        if count < 0:
            raise RunError("The model's logits must be finite to choose a token.")
        return np.asarray(outputs["token_ids"])[0, :count].tolist()


def _tags(folder: Path) -> list[set[str]]:
    """Returns the tags of each graph in a folder."""
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    return [set(graph.meta_info_def.tags) for graph in content.meta_graphs]


@contextlib.contextmanager
def _cannot_load(path: str | Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file may raise any
        raise RunError(f"Cannot load '{path}': {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    """Returns the line of TensorFlow's message that says what is wrong."""
    text = re.sub(r"\{\{[^}]*\}\}|\[Op:[^]]*\]", "", str(error))
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_NO_REASON)]
    line = (lines or [type(error).__name__])[0]
    # A check prints its sentence and the values in brackets of their own.
    if line.startswith(_CHECK):
        line = line[len(_CHECK) :].removesuffix("]").replace("] [", " ")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Runs an exported SavedModel.")
    parser.add_argument("folder", help="the SavedModel")
    parser.add_argument("--token-ids", required=True, help="the prompt, as in 1,2,3")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument(
        "--library",
        metavar="PATH",
        help="library that skips zeros on CPUs, in a folder that was exported for it "
        f"(default: the variable {LIBRARY})",
    )
    options = parser.parse_args(arguments)
    try:
        prompt = _token_ids(options.token_ids)
        model = SavedModel(options.folder, options.library)
        new = model.generate(prompt, options.max_new_tokens)
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    result = {"token_ids": prompt, "new_token_ids": new}
    print(json.dumps({**result, "skips_zeros": model.skips_zeros}))
    return 0


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise RunError(
            f"`--token-ids` must be numbers, as in 1,2,3. Received: {text}."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
