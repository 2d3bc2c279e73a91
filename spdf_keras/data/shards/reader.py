"""The reader of training batches from packed token sequences on disk.

A folder of shards holds, per split, NumPy files of `(sequences, context_length
+ 1)` token ids, the tokenizer, and `index.json`. Sequences are addressed by their
number, so a shuffle is a permutation of numbers, over the whole corpus. The order
of batches is a function of the seed and the step alone: a step is a position that
training resumes at, and workers share a batch without talking. TFRecords would
have to be read from the start, through a shuffle buffer whose content is part of
the position.
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
            InputError: If it holds no shards, or a shard is missing or cut.
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
            InputError: If one is not what was written.
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
        """Training batches number `start` to `stop - 1`, as of one endless stream.

        Each epoch visits every sequence once, in an order of its own; batches
        run over the end of an epoch into the next.

        Args:
            batch_size: Sequences per step, of all workers together.
            seed: Seed of the order.
            start: The first step; that of a checkpoint goes on after it.
            stop: The step after the last.
            num_workers: Workers that share each batch; divides `batch_size`.
            worker: Which of them reads: its part of the batch, in order.
            replicas: Elements that a worker's part of a step comes in.

        Returns:
            A dataset of `(token_ids, labels)`, each int32 of `(batch_size /
            num_workers / replicas, context_length)`, the labels one token ahead.

        Raises:
            InputError: If the workers cannot share the batch.
        """
        parts = num_workers * replicas
        share, rest = divmod(batch_size, max(parts, 1))
        if num_workers < 1 or rest:
            raise InputError(
                f"`num_workers` times `replicas` must divide batch_size={batch_size}. "
                f"Received: num_workers={num_workers}, replicas={replicas}."
            )
        if not 0 <= worker < num_workers:
            raise InputError(
                f"`worker` must be 0 to {num_workers - 1}. Received: worker={worker}."
            )
        order = _EpochOrder(self.num_sequences(), seed)
        rows = self.rows("train")

        def read(first: int) -> NDArray[np.int32]:
            return rows[order.sequences(first, share)]

        return self._dataset(read, start, stop, share, num_workers, worker, replicas)

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
            batches: How many; see `validation_batches`.
            num_workers: As for `batches`.
            worker: As for `batches`.
            replicas: As for `batches`.
        """
        share = batch_size // (num_workers * replicas)
        rows = self.rows("validation")

        def read(first: int) -> NDArray[np.int32]:
            return rows[first + np.arange(share)]

        return self._dataset(read, 0, batches, share, num_workers, worker, replicas)

    def validation_batches(
        self, batch_size: int, max_batches: int = 0, parts: int = 1
    ) -> tuple[int, int]:
        """The size and the number of whole batches in the validation split.

        Args:
            batch_size: Sequences per batch, at most those that there are.
            max_batches: Batches at the most; 0 is all.
            parts: Must divide the size: replicas that share a batch.
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
        start: int,
        stop: int,
        share: int,
        num_workers: int,
        worker: int,
        replicas: int,
    ) -> "tf.data.Dataset":
        """The shares of a worker's replicas in batches `start` to `stop - 1`.

        `read` gets the place of a share's first sequence in the stream of batches.
        """
        import tensorflow as tf

        shape = (share, self.context_length + 1)

        def read_element(element: NDArray[np.int64]) -> NDArray[np.int32]:
            step, replica = divmod(int(element), replicas)
            part = (step * num_workers + worker) * replicas + replica
            return read(part * share)

        def load(element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.numpy_function(read_element, [element], tf.int32)
            rows = tf.ensure_shape(rows, shape)
            return rows[:, :-1], rows[:, 1:]

        elements = tf.data.Dataset.range(start * replicas, stop * replicas)
        return elements.map(load).prefetch(tf.data.AUTOTUNE)


class _Rows:
    """Sequences of all shards under one numbering."""

    def __init__(self, arrays: list[NDArray[Any]]) -> None:
        # Views of the mapped files without the cost of the class `np.memmap`.
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


class _EpochOrder:
    """Which sequence stands where in the endless stream of shuffled epochs."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def sequences(self, first: int, count: int) -> NDArray[np.int64]:
        parts = []
        while count:
            epoch, offset = divmod(first, self._count)
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch] = shuffled(self._count, f"{self._seed}:{epoch}")
        return self._epochs[epoch]


def shuffled(count: int, key: str) -> NDArray[np.int64]:
    """A permutation of `range(count)` that depends on `key` alone.

    Sorts the raw stream of Philox, which is an algorithm, where NumPy's own
    shuffle may change between releases.
    """
    digest = hashlib.sha256(f"order:{key}".encode()).digest()
    bits = np.frombuffer(digest[:16], np.dtype("<u8")).astype(np.uint64)
    draws = np.random.Philox(key=bits).random_raw(count)
    return np.argsort(draws, kind="stable")
