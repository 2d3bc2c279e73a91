"""Lines of plain, gzip and zstd files, each with the place where it ends.

Everything is read a block at a time, so memory does not grow with the file. A
place is an offset in the unpacked bytes: reading goes on from it later.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from backports import zstd

from spdf_keras.errors import InputError

# Longer lines are left unread: a file without line ends must not fill the memory.
MAX_LINE_BYTES = 2**28
_BLOCK_BYTES = 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

PACKED_SUFFIXES = (".gz", ".zst")


class DamageError(Exception):
    """A packed stream that is cut or broken; the message says which and how."""


class Stream:
    """The unpacked bytes of a file: gzip where it ends in `.gz`, zstd in `.zst`.

    Args:
        path: The file.
        offset: Unpacked bytes to leave out. A packed file is unpacked up to there.

    Raises:
        InputError: If the file cannot be opened or read.
        DamageError: From `read`, where the packed stream is cut or broken.
    """

    def __init__(self, path: str | Path, offset: int = 0) -> None:
        self.path = Path(path)
        self._kind = {".gz": "gzip", ".zst": "zstd"}.get(self.path.suffix)
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise self._unreadable(error) from error
        self._unpacked: io.BufferedReader | gzip.GzipFile | zstd.ZstdFile = self._file
        if self._kind == "gzip":
            self._unpacked = gzip.GzipFile(fileobj=self._file)
        elif self._kind == "zstd":
            self._unpacked = zstd.ZstdFile(self._file)
        elif offset:
            self._file.seek(offset)
        while self._kind and offset:
            offset -= len(self.read(min(offset, _BLOCK_BYTES)))

    def read(self, size: int = _BLOCK_BYTES) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        try:
            # Not `read`: an error would take back what was unpacked before it.
            return self._unpacked.read1(size)
        except EOFError as error:
            message = f"is cut short: its {self._kind} stream has no end"
            raise DamageError(message) from error
        except (gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
            message = f"has a broken {self._kind} stream: {error}"
            raise DamageError(message) from error
        except OSError as error:
            raise self._unreadable(error) from error

    def file_bytes(self) -> int:
        """How much of the file was read, in packed bytes."""
        return self._file.tell()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self._unpacked.close()
        self._file.close()

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"Cannot read '{self.path}': {error.strerror or error}.")


class Line(NamedTuple):
    r"""One line, which ended with `\n`, `\r\n`, `\r` or with the file.

    Attributes:
        number: Counted from 1.
        end: Offset of the next line.
        content: The line without its end, or None if it has more than
            `MAX_LINE_BYTES`.
    """

    number: int
    end: int
    content: bytes | None


def read_lines(stream: Stream, number: int = 0, end: int = 0) -> Iterator[Line]:
    """Yields the lines of a stream; a byte order mark is taken away.

    Args:
        stream: Opened at offset `end`.
        number: Lines before it.
        end: Offset where the last of them ended.

    Raises:
        DamageError: After the last whole line before the damage.
    """
    parts: list[bytes] = []  # of a line whose end was not seen yet
    held = dropped = 0  # its bytes in `parts`, and those that were left unread

    def finished(lines: list[bytes]) -> Iterator[Line]:
        nonlocal number, end, dropped
        for line in lines:
            number, end = number + 1, end + dropped + len(line)
            content = line.rstrip(b"\r\n")
            if number == 1:
                content = content.removeprefix(_BYTE_ORDER_MARK)
            yield Line(number, end, None if dropped else content)
            dropped = 0

    while block := stream.read():
        # A "\r" at the end of a block may be half of "\r\n".
        waits = bool(parts) and parts[-1].endswith(b"\r")
        if not (waits or b"\n" in block or b"\r" in block):
            parts.append(block)
            held += len(block)
            if dropped or held > MAX_LINE_BYTES:
                dropped += held
                parts, held = [], 0
            continue
        lines = b"".join([*parts, block]).splitlines(keepends=True)
        parts = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        held = sum(map(len, parts))
        yield from finished(lines)
    rest = b"".join(parts).splitlines(keepends=True)
    yield from finished(rest or ([b""] if dropped else []))
