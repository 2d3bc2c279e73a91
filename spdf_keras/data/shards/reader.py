"""The reader of training batches from shards.

A folder of shards holds, per split, NumPy files of `(sequences, context_length
+ 1)` token ids, the tokenizer, and `index.json`. Sequences have numbers, so a shuffle
is a permutation of numbers over the whole corpus. The order of batches is a function
of the seed and the step alone: training resumes at a step, and workers share a batch
without talking. TFRecords would be read from the start, through a shuffle buffer whose
content is part of the position.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.data.shards.journal import JOURNAL
from spdf_keras.data.shards.order import EpochOrder
from spdf_keras.data.shards.share import Share
from spdf_keras.data.shards.writer import SPLITS
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.parsing import load_json

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Shards:
    """A folder that `prepare` or `write_shards` wrote.

    Attributes:
        folder: Where it is.
        index: Its `index.json`.
    """

    folder: Path
    index: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> "Shards":
        """Opens the folder and checks that its shards are there and whole.

        Raises:
            InputError: If the folder holds no shards, or a shard is missing or cut.
        """
        folder = Path(folder)
        try:
            index = load_json((folder / "index.json").read_text("utf-8"))
            shards = [s for split in SPLITS for s in index["splits"][split]["shards"]]
        except OSError as error:
            if (folder / JOURNAL).is_file():
                raise InputError(
                    f"The corpus in '{folder}' is not finished. Give the command that "
                    "prepared it again to go on with it."
                ) from error
            raise InputError(
                f"No token shards in '{folder}': there is no index.json. Make them "
                "with `spdf-keras prepare`."
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"'{folder / 'index.json'}' is damaged: {error}."
            ) from error
        width = index["context_length"] + 1
        for shard in shards:
            try:
                array = np.load(folder / shard["file"], mmap_mode="r")
                whole = array.shape == (shard["sequences"], width)
            except (OSError, ValueError):
                whole = False
            if not whole:
                raise InputError(
                    f"The shard '{folder / shard['file']}' is missing or damaged: "
                    "run `spdf-keras prepare` again."
                )
        return cls(folder, index)

    def verify(self) -> None:
        """Reads every shard and compares it with its checksum in the index.

        Raises:
            InputError: If the content of one has changed.
        """
        for split in SPLITS:
            for shard in self._shards(split):
                with (self.folder / shard["file"]).open("rb") as file:
                    checksum = hashlib.file_digest(file, "sha256").hexdigest()
                if checksum != shard["sha256"]:
                    raise InputError(
                        f"The shard '{self.folder / shard['file']}' has changed since "
                        "it was written: run `spdf-keras prepare` again."
                    )

    @property
    def fingerprint(self) -> str:
        """A digest of the tokens and their order; equal for equal shards anywhere."""
        shards = [s["sha256"] for part in SPLITS for s in self._shards(part)]
        text = json.dumps([self.context_length, shards])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def context_length(self) -> int:
        """Tokens per training sequence."""
        return int(self.index["context_length"])

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that encoded the shards."""
        return Tokenizer.load(self.folder / "tokenizer")

    def num_sequences(self, split: str = "train") -> int:
        """Sequences in a split."""
        return int(self.index["splits"][split]["sequences"])

    def rows(self, split: str) -> "_Rows":
        """The sequences of a split, addressed by number, mapped from disk."""
        files = [shard["file"] for shard in self._shards(split)]
        return _Rows([np.load(self.folder / name, mmap_mode="r") for name in files])

    def batches(
        self,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        num_workers: int = 1,
        worker: int = 0,
        replicas: int = 1,
    ) -> "tf.data.Dataset":
        """Training batches number `start` to `stop - 1` of one endless stream.

        Each epoch visits every sequence once, in an order of its own; batches
        run over the end of an epoch into the next.

        Args:
            batch_size: Sequences per step, of all workers together.
            seed: Seed of the order.
            start: The first step; a checkpoint's step continues after it.
            stop: The step after the last.
            num_workers: Workers that share each batch; divides `batch_size`.
            worker: The number of the worker that reads, which gives its part.
            replicas: Elements that a worker's part of a step comes in.

        Returns:
            A dataset of `(token_ids, labels)`, each int32 of `(batch_size /
            num_workers / replicas, context_length)`, the labels one token ahead.

        Raises:
            InputError: If the workers cannot share the batch.
        """
        share = Share(batch_size, num_workers, worker, replicas)
        order = EpochOrder(self.num_sequences(), seed)
        rows = self.rows("train")

        def read(first: int) -> NDArray[np.int32]:
            return rows[order.sequences(first, share.rows)]

        return self._dataset(read, share, start, stop)

    def validation(
        self,
        batch_size: int,
        batches: int,
        num_workers: int = 1,
        worker: int = 0,
        replicas: int = 1,
    ) -> "tf.data.Dataset":
        """The first batches of the validation split, in order.

        Args:
            batch_size: Sequences per batch, of all workers together.
            batches: Number of batches; see `validation_batches`.
            num_workers: As for `batches`.
            worker: As for `batches`.
            replicas: As for `batches`.
        """
        share = Share(batch_size, num_workers, worker, replicas)
        rows = self.rows("validation")

        def read(first: int) -> NDArray[np.int32]:
            return rows[first + np.arange(share.rows)]

        return self._dataset(read, share, 0, batches)

    def validation_batches(
        self, batch_size: int, max_batches: int = 0, parts: int = 1
    ) -> tuple[int, int]:
        """The size and the number of whole batches in the validation split.

        Args:
            batch_size: Sequences per batch; it shrinks to a split that has fewer.
            max_batches: Batches at most; 0 is all.
            parts: Replicas that share a batch; their number divides the size.
        """
        count = self.num_sequences("validation")
        size = min(batch_size, count) // parts * parts
        batches = count // size if size else 0
        return size, min(batches, max_batches) if max_batches else batches

    def _shards(self, split: str) -> list[dict[str, Any]]:
        return list(self.index["splits"][split]["shards"])

    def _dataset(
        self,
        read: Callable[[int], NDArray[np.int32]],
        share: Share,
        start: int,
        stop: int,
    ) -> "tf.data.Dataset":
        """A share of batches `start` to `stop - 1`.

        `read` gets the place of an element's first sequence in the stream of batches.
        """
        import tensorflow as tf

        shape = (share.rows, self.context_length + 1)

        def read_element(element: NDArray[np.int64]) -> NDArray[np.int32]:
            step, first = share.place(int(element))
            return read(step * share.batch_size + first)

        def load(element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.numpy_function(read_element, [element], tf.int32)
            rows = tf.ensure_shape(rows, shape)
            return rows[:, :-1], rows[:, 1:]

        return share.elements(start, stop).map(load).prefetch(2)


class _Rows:
    """Sequences of all shards under one numbering."""

    def __init__(self, arrays: list[NDArray[Any]]) -> None:
        # Plain arrays over the mapped files avoid the overhead of `np.memmap`.
        self._arrays = [np.asarray(array) for array in arrays]
        self._starts = np.cumsum([0, *(len(array) for array in arrays)])

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        offsets = numbers - self._starts[shards]
        width = self._arrays[0].shape[1] if self._arrays else 0
        rows = np.empty((len(numbers), width), np.int32)
        places = zip(shards.tolist(), offsets.tolist(), strict=True)
        for row, (shard, offset) in enumerate(places):
            rows[row] = self._arrays[shard][offset]
        return rows
