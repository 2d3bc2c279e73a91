"""Packed token sequences on disk, and the reader of training batches.

A folder of shards holds, per split, NumPy files of `(sequences, context_length
+ 1)` token ids, the tokenizer, and `index.json`. The order of batches is a
function of the seed and the step alone, so training resumes at any step.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.data.tokenizer import Tokenizer
from spdf_keras.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

SPLITS = ("train", "validation")
_SEQUENCES_PER_SHARD = 65_536
_ENCODE_TOGETHER = 1_000


def write_shards(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    context_length: int,
    folder: str | Path,
    validation_fraction: float = 0.01,
) -> dict[str, Any]:
    """Tokenises documents, packs them and writes them as shards.

    Each document ends with the end-of-text token; documents follow one another
    in sequences of `context_length + 1` tokens without padding. The last,
    incomplete sequence of a split is left out and counted. A document belongs to
    the validation split by a hash of its text, wherever it stands.

    Args:
        documents: The corpus; read once, in constant memory.
        tokenizer: Encodes them; a copy is saved beside the shards.
        context_length: Tokens that a model will see at once.
        folder: Where to write; must not exist or be empty.
        validation_fraction: Share of documents to validate on, in `[0, 1)`.

    Returns:
        The index: counts, checksums, context length, tokenizer fingerprint.

    Raises:
        InputError: If the folder is not empty, an argument is out of range, or
            the corpus is too short for one sequence of training.
    """
    folder = Path(folder)
    if context_length < 1:
        raise InputError(
            "`context_length` must be positive. Received: "
            f"context_length={context_length}."
        )
    if not 0.0 <= validation_fraction < 1.0:
        raise InputError(
            "`validation_fraction` must be in [0, 1). Received: "
            f"validation_fraction={validation_fraction}."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"The folder '{folder}' is not empty: choose another.")
    # Written under another name, so that a killed run leaves no half corpus.
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        index = _write(
            documents, tokenizer, context_length, unfinished, validation_fraction
        )
        if not index["splits"]["train"]["sequences"]:
            raise InputError(
                f"The corpus is too short: {index['splits']['train']['tokens']} "
                f"tokens do not fill one sequence of {context_length + 1}. "
                "Give more text or a shorter context length."
            )
        tokenizer.save(unfinished / "tokenizer")
        text = json.dumps(index, indent=2)
        (unfinished / "index.json").write_text(text + "\n", "utf-8")
        if folder.exists():
            folder.rmdir()
        os.rename(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return index


def _write(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    context_length: int,
    folder: Path,
    validation_fraction: float,
) -> dict[str, Any]:
    dtype = np.dtype(np.uint16 if tokenizer.vocabulary_size <= 2**16 else np.uint32)
    writers = {
        split: _SplitWriter(folder, split, context_length + 1, dtype)
        for split in SPLITS
    }
    for texts in _chunks(documents, _ENCODE_TOGETHER):
        for text, token_ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            split = SPLITS[_is_validation(text, validation_fraction)]
            writers[split].add([*token_ids, tokenizer.end_token_id])
    return {
        "format": 1,
        "context_length": context_length,
        "dtype": dtype.name,
        "tokenizer": tokenizer.fingerprint,
        "splits": {split: writer.finish() for split, writer in writers.items()},
    }


def _is_validation(text: str, fraction: float) -> bool:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") < fraction * 2**64


def _chunks(items: Iterable[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _SplitWriter:
    """Packs one split's tokens and writes a shard whenever one is full."""

    def __init__(
        self, folder: Path, split: str, width: int, dtype: np.dtype[Any]
    ) -> None:
        self._folder, self._split, self._width, self._dtype = (
            folder,
            split,
            width,
            dtype,
        )
        self._pending: list[int] = []
        self._shards: list[dict[str, Any]] = []
        self._documents = self._tokens = 0

    def add(self, token_ids: list[int]) -> None:
        self._documents += 1
        self._tokens += len(token_ids)
        self._pending += token_ids
        while len(self._pending) >= _SEQUENCES_PER_SHARD * self._width:
            self._write(_SEQUENCES_PER_SHARD)

    def finish(self) -> dict[str, Any]:
        if len(self._pending) >= self._width:
            self._write(len(self._pending) // self._width)
        return {
            "documents": self._documents,
            "tokens": self._tokens,
            "sequences": sum(shard["sequences"] for shard in self._shards),
            "tokens_left_out": len(self._pending),
            "shards": self._shards,
        }

    def _write(self, sequences: int) -> None:
        size = sequences * self._width
        array = np.array(self._pending[:size], self._dtype)
        del self._pending[:size]
        name = f"{self._split}-{len(self._shards):05d}.npy"
        np.save(self._folder / name, array.reshape(sequences, self._width))
        checksum = hashlib.sha256((self._folder / name).read_bytes()).hexdigest()
        self._shards.append({"file": name, "sequences": sequences, "sha256": checksum})


@dataclass(frozen=True)
class Shards:
    """A folder that `write_shards` wrote.

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
            index = json.loads((folder / "index.json").read_text("utf-8"))
            shards = [s for split in SPLITS for s in index["splits"][split]["shards"]]
        except OSError as error:
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
        files = [s["file"] for s in self.index["splits"][split]["shards"]]
        return _Rows([np.load(self.folder / name, mmap_mode="r") for name in files])

    def batches(
        self, batch_size: int, seed: int, start: int, stop: int
    ) -> "tf.data.Dataset":
        """Training batches number `start` to `stop - 1`, as of one endless stream.

        Each epoch visits every sequence once, in an order of its own; batches
        run over the end of an epoch into the next.

        Returns:
            A dataset of `(token_ids, labels)`, `(batch_size, context_length)`
            int32 each, the labels one token ahead.
        """
        order = _EpochOrder(self.num_sequences(), seed)
        rows = self.rows("train")

        def read(step: NDArray[np.int64]) -> NDArray[np.int32]:
            return rows[order.sequences(int(step) * batch_size, batch_size)]

        return self._dataset(read, start, stop, batch_size)

    def validation(self, batch_size: int, max_batches: int = 0) -> "tf.data.Dataset":
        """The validation split once, in order; the incomplete last batch left out.

        Args:
            batch_size: Sequences per batch, at most those that there are.
            max_batches: Batches at the most; 0 is all.
        """
        count = self.num_sequences("validation")
        batch_size = max(1, min(batch_size, count))
        rows = self.rows("validation")

        def read(step: NDArray[np.int64]) -> NDArray[np.int32]:
            return rows[int(step) * batch_size + np.arange(batch_size)]

        batches = count // batch_size
        stop = min(batches, max_batches) if max_batches else batches
        return self._dataset(read, 0, stop, batch_size)

    def _dataset(
        self, read: Any, start: int, stop: int, batch_size: int
    ) -> "tf.data.Dataset":
        import tensorflow as tf

        shape = (batch_size, self.context_length + 1)

        def load(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.ensure_shape(tf.numpy_function(read, [step], tf.int32), shape)
            return rows[:, :-1], rows[:, 1:]

        return tf.data.Dataset.range(start, stop).map(load).prefetch(tf.data.AUTOTUNE)


class _Rows:
    """Sequences of all shards under one numbering."""

    def __init__(self, arrays: list[NDArray[Any]]) -> None:
        self._arrays = arrays
        self._starts = np.cumsum([0, *(len(array) for array in arrays)])

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        rows = [
            self._arrays[shard][number - self._starts[shard]]
            for shard, number in zip(shards, numbers, strict=True)
        ]
        return np.stack(rows).astype(np.int32)


class _EpochOrder:
    """Which sequence stands where in the endless stream of shuffled epochs."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def sequences(self, first: int, count: int) -> NDArray[np.int64]:
        positions = np.arange(first, first + count)
        epochs, offsets = np.divmod(positions, self._count)
        return np.array(
            [
                self._permutation(epoch)[offset]
                for epoch, offset in zip(epochs, offsets, strict=True)
            ]
        )

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
