"""The bytes of a file, decompressed where it is compressed.

Everything is read a block at a time, so memory does not grow with the file; only
zstd with a long window needs as much as the window, up to 2 GiB.
"""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from backports import zstd

from spdf_keras.errors import InputError

_BLOCK_BYTES = 2**20

# The compression that the ending of a name promises; endings are in lower case.
COMPRESSED_SUFFIXES = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
    ".zstd": "zstd",
}
# The first bytes of compressed data. No text starts with them.
_STARTS = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}
_START_BYTES = 16
# By default, zstd refuses windows above 128 MiB (`--long=31`).
_LONGEST_WINDOW: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 31}


def compression_of(start: bytes) -> str | None:
    """The compression of data with these first bytes, or None if it has none.

    Example:
        >>> compression_of(gzip.compress(b"text"))
        'gzip'
    """
    kinds = (kind for kind, pattern in _STARTS.items() if pattern.match(start))
    return next(kinds, None)


class DamageError(Exception):
    """A compressed stream is cut or broken; the message says which and how."""


class Stream:
    """The decompressed bytes of a file.

    The first bytes of a file decide, not its name: compressed data is decompressed
    under any name. Where a name promises compressed data and the file holds something
    else, the stream is broken.

    Args:
        path: The file.
        offset: Decompressed bytes to skip. A compressed file is read up to there.

    Raises:
        InputError: If the file cannot be opened or read, or needs more memory to
            decompress than there is.
        DamageError: From `read`, where the compressed stream is cut or broken.
    """

    def __init__(self, path: str | Path, offset: int = 0) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
            start = self._file.peek(_START_BYTES)[:_START_BYTES]
        except OSError as error:
            raise self._unreadable(error) from error
        named = COMPRESSED_SUFFIXES.get(self.path.suffix.lower())
        self._kind = compression_of(start) or named
        self._is_empty = not start
        self._content: Any = self._file
        if self._kind == "gzip":
            self._content = gzip.GzipFile(fileobj=self._file)
        elif self._kind == "zstd":
            self._content = zstd.ZstdFile(self._file, options=_LONGEST_WINDOW)
        elif self._kind == "bzip2":
            self._content = _Decompressed(self._file, bz2.BZ2Decompressor)
        elif self._kind == "xz":
            self._content = _Decompressed(self._file, lzma.LZMADecompressor)
        elif offset:
            self._file.seek(offset)
        while self._kind and offset:
            offset -= len(self.read(min(offset, _BLOCK_BYTES)))

    def read(self, size: int = _BLOCK_BYTES) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        try:
            if self._kind and self._is_empty:
                raise EOFError
            # With `read`, an error would lose the bytes that came before it.
            return bytes(self._content.read1(size))
        except EOFError as error:
            message = f"is cut short: its {self._kind} stream has no end"
            raise DamageError(message) from error
        except (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise self._unreadable(error) from error
            if "not enough memory" in str(error):
                raise self._too_large() from error
            message = f"has a broken {self._kind} stream: {error}"
            raise DamageError(message) from error
        except MemoryError as error:
            raise self._too_large() from error

    def file_bytes(self) -> int:
        """How many bytes of the file were read, before decompression."""
        return self._file.tell()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        if self._kind in ("gzip", "zstd"):
            self._content.close()
        self._file.close()

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"Cannot read '{self.path}': {error.strerror or error}.")

    def _too_large(self) -> InputError:
        return InputError(
            f"Cannot read '{self.path}': its {self._kind} stream needs more memory to "
            "decompress than there is. Compress it again with a smaller window."
        )


class _Decompressed:
    """The content of all streams of a bzip2 or xz file, one after the other.

    Python's own `bz2.BZ2File` and `lzma.LZMAFile` stop without an error at bytes that
    are no stream, and at the zeros that may stand between two streams of xz.
    """

    def __init__(self, file: IO[bytes], start: Callable[[], Any]) -> None:
        self._file, self._start, self._stream = file, start, start()

    def read1(self, size: int) -> bytes:
        data = b""
        while not data:
            compressed = b""
            if self._stream.eof:
                compressed = self._stream.unused_data.lstrip(b"\0")
                while not compressed:
                    block = self._file.read(_BLOCK_BYTES)
                    if not block:
                        return b""
                    compressed = block.lstrip(b"\0")
                self._stream = self._start()
            elif self._stream.needs_input:
                compressed = self._file.read(_BLOCK_BYTES)
                if not compressed:
                    raise EOFError
            data = self._stream.decompress(compressed, size)
        return data
