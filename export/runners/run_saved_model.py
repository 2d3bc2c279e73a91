"""Runs an exported SavedModel; needs TensorFlow alone, neither Keras nor spdf_keras.

    python run_saved_model.py FOLDER --token-ids 1,2,3 --max-new-tokens 16

It prints one JSON object with the prompt and its greedy continuation. A folder or a
prompt that cannot be used ends it with one sentence and exit status 2.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf


class RunError(ValueError):
    """The folder or the prompt cannot be used; the message is one sentence."""


class SavedModel:
    """A folder that `to_saved_model` wrote, with the signature `generate`.

    Args:
        folder: The folder.

    Raises:
        RunError: If the folder is no such SavedModel.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            # This object owns the variables, so it must live as long as the signature.
            self._loaded = tf.saved_model.load(str(folder))
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise RunError(f"Cannot load '{folder}': {first}") from error
        signatures = self._loaded.signatures
        if "generate" not in signatures:
            raise RunError(
                "A SavedModel must have the signature generate. Received: "
                f"'{folder}' with {', '.join(signatures) or 'none'}."
            )
        self._generate = signatures["generate"]

    def generate(self, token_ids: Sequence[int], max_new_tokens: int = 16) -> list[int]:
        """Continues a prompt with the likeliest tokens.

        Args:
            token_ids: The prompt.
            max_new_tokens: Largest number of tokens to add; the context bounds it too.

        Returns:
            The new token ids.

        Raises:
            RunError: If the prompt is empty or does not fit.
        """
        try:
            outputs = self._generate(
                token_ids=tf.constant([list(token_ids)], tf.int32),
                lengths=tf.constant([len(token_ids)], tf.int32),
                max_new_tokens=tf.constant(max_new_tokens, tf.int32),
            )
        except tf.errors.InvalidArgumentError as error:
            lines = str(error.message).splitlines()
            sentences = [line for line in lines if "`" in line] or lines
            raise RunError(sentences[0].strip("b' ")) from error
        count = int(outputs["lengths"][0])
        return np.asarray(outputs["token_ids"])[0, :count].tolist()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Runs an exported SavedModel.")
    parser.add_argument("folder", help="the SavedModel")
    parser.add_argument("--token-ids", required=True, help="the prompt, as in 1,2,3")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    options = parser.parse_args(arguments)
    try:
        prompt = [int(part) for part in options.token_ids.split(",") if part.strip()]
        new = SavedModel(options.folder).generate(prompt, options.max_new_tokens)
    except ValueError as error:  # RunError is one
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({"token_ids": prompt, "new_token_ids": new}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
