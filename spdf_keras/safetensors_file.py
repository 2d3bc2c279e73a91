"""Writes safetensors one tensor at a time, so a model need not fit in memory.

The library `safetensors` takes all tensors of a file at once (`save_file`,
`serialize_file`), and its order of tensors is not that of earlier exports.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_DTYPES = {
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint8": "U8",
    "int32": "I32",
}

# The header is written last, into room that is left for it at the start.
_HEADER_BYTES_PER_TENSOR = 256


class SafetensorsWriter:
    """A file that is being written; see `safetensors_writer`.

    Attributes:
        checksums: SHA-256 of each tensor's bytes, in hexadecimal.
        size_bytes: Bytes of all tensors so far.
    """

    def __init__(
        self, file: BinaryIO, most_tensors: int, metadata: dict[str, str] | None = None
    ) -> None:
        self.checksums: dict[str, str] = {}
        self.size_bytes = 0
        self._file = file
        self._header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        room = len(json.dumps(self._header).encode())
        room = -(-room // _HEADER_BYTES_PER_TENSOR) + most_tensors
        self._header_bytes = _HEADER_BYTES_PER_TENSOR * room
        file.seek(8 + self._header_bytes)

    def add(self, name: str, tensor: NDArray[Any]) -> None:
        """Appends a tensor; add wide numbers before bytes, so that they are aligned."""
        raw = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
        start = self.size_bytes
        self._file.write(raw)
        self.size_bytes += raw.nbytes
        self._header[name] = {
            "dtype": _DTYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [start, self.size_bytes],
        }
        self.checksums[name] = hashlib.sha256(raw).hexdigest()

    def _finish(self) -> None:
        header = json.dumps(self._header).encode()
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._header_bytes))
        self._file.write(header.ljust(self._header_bytes))


@contextmanager
def safetensors_writer(
    path: Path, most_tensors: int, metadata: dict[str, str] | None = None
) -> Iterator[SafetensorsWriter]:
    """Opens a new file for `SafetensorsWriter.add`.

    Args:
        path: The file.
        most_tensors: Largest number of tensors that will be added.
        metadata: Texts about the file.
    """
    with path.open("wb") as file:
        writer = SafetensorsWriter(file, most_tensors, metadata)
        yield writer
        writer._finish()
