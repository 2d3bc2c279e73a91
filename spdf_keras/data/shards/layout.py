"""The layout of a corpus folder: how sequences are cut, and which files it holds."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spdf_keras.data.shards.journal import JOURNAL
from spdf_keras.data.shards.writer import SHARD_NAME, ShardWriter
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.files import remove_files, replace_file, sync_folder
from spdf_keras.folders import claim
from spdf_keras.values import as_type, check_integers


@dataclass(frozen=True)
class Layout:
    """How a corpus becomes sequences.

    Attributes:
        context_length: Tokens that a model will see at once.
        validation_fraction: Share of documents to validate on, in `[0, 1)`.

    Raises:
        InputError: If one of them is out of range.
    """

    context_length: int
    validation_fraction: float

    def __post_init__(self) -> None:
        length = as_type("context_length", int, self.context_length)
        check_integers("context_length", length)
        object.__setattr__(self, "context_length", length)
        if length < 1:
            raise InputError(
                f"`context_length` must be positive. Received: context_length={length}."
            )
        if not 0.0 <= self.validation_fraction < 1.0:
            raise InputError(
                "`validation_fraction` must be in [0, 1). Received: "
                f"validation_fraction={self.validation_fraction}."
            )

    def writer(
        self, folder: Path, tokenizer: Tokenizer, state: dict[str, Any] | None = None
    ) -> ShardWriter:
        """A writer of such sequences; `state` is one of an earlier writer."""
        return ShardWriter(
            folder,
            self.context_length,
            tokenizer.vocabulary_size,
            tokenizer.end_token_id,
            self.validation_fraction,
            state,
        )

    def finish(
        self,
        folder: Path,
        writer: ShardWriter,
        tokenizer: Tokenizer,
        corpus: dict[str, Any],
        **more: Any,
    ) -> dict[str, Any]:
        """Closes the shards and writes the index, which makes the folder a corpus.

        Args:
            folder: The folder.
            writer: It has got all documents.
            tokenizer: It has encoded them.
            corpus: The entry of the index about the files that were read.
            **more: Further entries of the index.

        Raises:
            InputError: If there is less than one training sequence; the files are
                removed then.
        """
        splits = writer.finish()
        if not splits["train"]["sequences"]:
            remove_output(folder)
            raise InputError(
                f"The corpus is too short: {splits['train']['tokens']} tokens do not "
                f"fill one sequence of {self.context_length + 1}. Give more text or a "
                f"shorter context length.{_left_out(corpus)}"
            )
        index = {
            "format": 1,
            "context_length": self.context_length,
            "dtype": writer.dtype.name,
            "tokenizer": tokenizer.fingerprint,
            "corpus": corpus,
            "splits": splits,
            **more,
        }
        sync_folder(folder)
        replace_file(folder / "index.json", json.dumps(index, indent=2) + "\n")
        (folder / JOURNAL).unlink(missing_ok=True)
        return index


@contextmanager
def claim_corpus(folder: Path) -> Iterator[None]:
    """Holds a folder for a new or unfinished corpus.

    Raises:
        InputError: If it holds a finished corpus or something else, or another
            process holds it.
    """
    with claim(folder, "corpus"):
        if (folder / "index.json").exists():
            raise InputError(
                f"The folder '{folder}' is not empty: choose another. It holds another "
                "corpus."
            )
        yield


def remove_output(folder: Path) -> None:
    """Removes the files of a preparation, and nothing else."""
    remove_files(folder / "tokenizer", ["vocab.json", "merges.txt"])
    names = [n for n in os.listdir(folder) if SHARD_NAME.fullmatch(n) or n == JOURNAL]
    for name in names:
        (folder / name).unlink()


def _left_out(corpus: dict[str, Any]) -> str:
    return "".join(
        f" Left out: {counted['count']} {counted.get('unit', 'lines')} ({kind}), the "
        f"first of them {counted['first']}."
        for kind, counted in corpus.get("skipped", {}).items()
    )
