"""Writes token ids as shards of packed sequences.

Sequences are packed: documents follow each other without padding, the end-of-text
token after each, and every `context_length + 1` tokens are one sequence. A shard is a
NumPy file of `(sequences, context_length + 1)` ids, so the reader finds any sequence
by its number. Files only ever hold whole sequences; the tokens after the last one,
fewer than a sequence, are part of the state. So a writer returns to an earlier state
by cutting files, and goes on from there to the same bytes.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from spdf_keras.data.corpus.pieces import Piece
from spdf_keras.errors import InputError

SPLITS = ("train", "validation")
SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.npy")
_SEQUENCES_PER_SHARD = 65_536
# They tell documents apart, and come before the rest of a long document.
_HASHED_CHARACTERS = 2**16
_BUFFER_TOKENS = 2**20


class ShardWriter:
    """Writes the shards of both splits.

    A hash of the first 65,536 characters decides the split of a document, wherever it
    stands.

    Args:
        folder: Where the shards go.
        context_length: Tokens that a model will see at once.
        vocabulary_size: Chooses 2 or 4 bytes for a token.
        end_token_id: The token after each document.
        validation_fraction: Share of documents to validate on.
        state: Where to go on: an earlier result of `state`.
    """

    def __init__(
        self,
        folder: Path,
        context_length: int,
        vocabulary_size: int,
        end_token_id: int,
        validation_fraction: float,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.dtype = np.dtype(np.uint16 if vocabulary_size <= 2**16 else np.uint32)
        self._end = np.array([end_token_id], self.dtype)
        self._threshold = validation_fraction * 2**64
        state = state or {}
        self._splits = {
            name: _SplitWriter(
                folder, name, context_length + 1, self.dtype, state.get(name)
            )
            for name in SPLITS
        }
        self._split: _SplitWriter | None = None  # the split of an unfinished document
        self.bytes = state.get("bytes", 0)

    def add(
        self, pieces: Sequence[Piece], token_ids: Sequence[NDArray[np.integer]]
    ) -> None:
        """Takes pieces of documents, in their order, and their ids."""
        for piece, ids in zip(pieces, token_ids, strict=True):
            content = piece.text.encode("utf-8", "surrogatepass")
            self.bytes += len(content)
            split = self._split or self._splits[self._split_of(piece.text, content)]
            split.add(ids)
            if piece.last:
                split.add(self._end)
                split.documents += 1
            self._split = None if piece.last else split

    def _split_of(self, text: str, content: bytes) -> str:
        if len(text) > _HASHED_CHARACTERS:
            content = text[:_HASHED_CHARACTERS].encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(content).digest()
        return SPLITS[int.from_bytes(digest[:8], "little") < self._threshold]

    @property
    def tokens(self) -> int:
        """Tokens so far, with those that end documents."""
        return sum(split.tokens for split in self._splits.values())

    def state(self) -> dict[str, Any]:
        """The state to go on from; its files are on the disk.

        It is valid only between two documents.
        """
        states = {name: split.state() for name, split in self._splits.items()}
        return {**states, "bytes": self.bytes}

    def finish(self) -> dict[str, Any]:
        """Closes the last shards and returns the index entry of each split."""
        return {name: split.finish() for name, split in self._splits.items()}

    def close(self) -> None:
        """Closes the files without finishing them."""
        for split in self._splits.values():
            split.close()


class _SplitWriter:
    """Writes one split, and starts a shard whenever one is full."""

    def __init__(
        self,
        folder: Path,
        split: str,
        width: int,
        dtype: np.dtype[Any],
        state: dict[str, Any] | None,
    ) -> None:
        self._folder, self._split, self._width = folder, split, width
        self._dtype = dtype
        state = state or {}
        self.documents: int = state.get("documents", 0)
        self.tokens: int = state.get("tokens", 0)
        self._shards: list[dict[str, Any]] = list(state.get("shards", []))
        self._rows: int = state.get("rows", 0)  # in the shard that is being filled
        self._waiting = [np.array(state.get("rest", []), dtype)]
        self._num_waiting = len(self._waiting[0])
        self._file: BinaryIO | None = None
        self._cut_back()

    def add(self, ids: NDArray[np.integer]) -> None:
        self.tokens += len(ids)
        self._waiting.append(ids)
        self._num_waiting += len(ids)
        if self._num_waiting >= _BUFFER_TOKENS:
            self._write()

    def state(self) -> dict[str, Any]:
        self._write()
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "shards": self._shards,
            "rows": self._rows,
            "rest": self._waiting[0].tolist(),
        }

    def finish(self) -> dict[str, Any]:
        self._write()
        if self._rows:
            self._close_shard()
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "sequences": sum(shard["sequences"] for shard in self._shards),
            "tokens_left_out": self._num_waiting,
            "shards": self._shards,
        }

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _write(self) -> None:
        ids = np.concatenate(self._waiting)
        rows = ids[: len(ids) // self._width * self._width].reshape(-1, self._width)
        self._waiting = [ids[rows.size :].copy()]
        self._num_waiting = len(self._waiting[0])
        while len(rows):
            room = _SEQUENCES_PER_SHARD - self._rows
            if self._file is None:
                self._file = self._path().open("wb")
                self._file.write(self._header(_SEQUENCES_PER_SHARD))
            self._file.write(rows[:room].data)
            self._rows += len(rows[:room])
            rows = rows[room:]
            if self._rows == _SEQUENCES_PER_SHARD:
                self._close_shard()

    def _close_shard(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        self._file.write(self._header(self._rows))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        with self._path().open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        self._shards.append(
            {"file": self._path().name, "sequences": self._rows, "sha256": checksum}
        )
        self._rows = 0

    def _cut_back(self) -> None:
        """Removes everything that was written after the state."""
        kept = {shard["file"] for shard in self._shards}
        for path in self._folder.iterdir():
            match = SHARD_NAME.fullmatch(path.name)
            if not match or match[1] != self._split or path.name in kept:
                continue
            if not (self._rows and path == self._path()):
                path.unlink()
        if not self._rows:
            return
        header = self._header(_SEQUENCES_PER_SHARD)
        size = len(header) + self._rows * self._width * self._dtype.itemsize
        if not self._path().is_file() or self._path().stat().st_size < size:
            raise InputError(
                f"The shard '{self._path()}' is missing or damaged: delete the folder "
                "to start over."
            )
        self._file = self._path().open("r+b")
        self._file.truncate(size)
        self._file.write(header)
        self._file.seek(size)

    def _path(self) -> Path:
        return self._folder / f"{self._split}-{len(self._shards):05d}.npy"

    def _header(self, rows: int) -> bytes:
        """NumPy's header; its length does not depend on the number of rows."""
        file = BytesIO()
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (rows, self._width),
        }
        np.lib.format.write_array_header_1_0(file, header)
        return file.getvalue()
