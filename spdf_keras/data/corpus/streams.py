r"""Lines of files, packed or not, each with the place where it ends.

Everything is read a block at a time, so memory does not grow with the file; only
zstd with a long window needs as much as the window, up to 2 GiB. A place is an
offset in the unpacked bytes: reading goes on from it later.

A line ends at `\n`, with any `\r` right before it, or at a `\r` alone. Nothing else
ends one: form feeds, NEL and U+2028 stand inside lines. All readers of lines go by
this, through `read_lines` or `split_lines`.
"""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from backports import zstd

from spdf_keras.errors import InputError

# Longer lines are left unread: a file without line ends must not fill the memory.
MAX_LINE_BYTES = 2**28
_BLOCK_BYTES = 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# How data is packed, by the ending of a name in lower case.
PACKED_SUFFIXES = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
    ".zstd": "zstd",
}
# How packed data starts. None of it is the start of a text.
_STARTS = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}
_START_BYTES = 16
# zstd itself takes windows above 128 MiB (`--long=31`) only where it is told to.
_LONGEST_WINDOW: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 31}

# More `\r` before a `\n` than somebody's mistake leaves would be held for nothing.
_MAX_RETURNS = 8
_LINES = re.compile(rf"[^\r\n]*+(?:\r{{0,{_MAX_RETURNS}}}\n|\r)|[^\r\n]+")
_BYTE_LINES = re.compile(_LINES.pattern.encode())


def packing_of(start: bytes) -> str | None:
    """How data that starts like this is packed, or None if it is not.

    Example:
        >>> packing_of(gzip.compress(b"text"))
        'gzip'
    """
    kinds = (kind for kind, pattern in _STARTS.items() if pattern.match(start))
    return next(kinds, None)


class DamageError(Exception):
    """A packed stream that is cut or broken; the message says which and how."""


class Stream:
    """The unpacked bytes of a file.

    What its first bytes say goes before what its name says: packed data is unpacked
    under any name. Where a name promises packed data and it is something else, the
    stream is broken.

    Args:
        path: The file.
        offset: Unpacked bytes to leave out. A packed file is unpacked up to there.

    Raises:
        InputError: If the file cannot be opened or read, or needs more memory to
            unpack than there is.
        DamageError: From `read`, where the packed stream is cut or broken.
    """

    def __init__(self, path: str | Path, offset: int = 0) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
            start = self._file.peek(_START_BYTES)[:_START_BYTES]
        except OSError as error:
            raise self._unreadable(error) from error
        named = PACKED_SUFFIXES.get(self.path.suffix.lower())
        self._kind = packing_of(start) or named
        self._is_empty = not start
        self._unpacked: Any = self._file
        if self._kind == "gzip":
            self._unpacked = gzip.GzipFile(fileobj=self._file)
        elif self._kind == "zstd":
            self._unpacked = zstd.ZstdFile(self._file, options=_LONGEST_WINDOW)
        elif self._kind == "bzip2":
            self._unpacked = _Unpacker(self._file, bz2.BZ2Decompressor)
        elif self._kind == "xz":
            self._unpacked = _Unpacker(self._file, lzma.LZMADecompressor)
        elif offset:
            self._file.seek(offset)
        while self._kind and offset:
            offset -= len(self.read(min(offset, _BLOCK_BYTES)))

    def read(self, size: int = _BLOCK_BYTES) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        try:
            if self._kind and self._is_empty:
                raise EOFError
            # Not `read`: an error would take back what was unpacked before it.
            return bytes(self._unpacked.read1(size))
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
        """How much of the file was read, in packed bytes."""
        return self._file.tell()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        if self._kind in ("gzip", "zstd"):
            self._unpacked.close()
        self._file.close()

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"Cannot read '{self.path}': {error.strerror or error}.")

    def _too_large(self) -> InputError:
        return InputError(
            f"Cannot read '{self.path}': its {self._kind} stream needs more memory to "
            "unpack than there is. Pack it again with a smaller window."
        )


class _Unpacker:
    """The streams of a bzip2 or xz file, one after the other.

    Python's own files of these kinds end without a word at what is no stream, and
    at the zeros that may stand between two streams of xz.
    """

    def __init__(self, file: IO[bytes], start: Callable[[], Any]) -> None:
        self._file, self._start, self._stream = file, start, start()

    def read1(self, size: int) -> bytes:
        data = b""
        while not data:
            packed = b""
            if self._stream.eof:
                packed = self._stream.unused_data.lstrip(b"\0")
                while not packed:
                    block = self._file.read(_BLOCK_BYTES)
                    if not block:
                        return b""
                    packed = block.lstrip(b"\0")
                self._stream = self._start()
            elif self._stream.needs_input:
                packed = self._file.read(_BLOCK_BYTES)
                if not packed:
                    raise EOFError
            data = self._stream.decompress(packed, size)
        return data


def split_lines(text: str, keep_ends: bool = False) -> list[str]:
    r"""The lines of a text, as `read_lines` has those of a stream.

    Args:
        text: Any text. Its last line needs no end.
        keep_ends: Whether each line keeps the characters that end it.

    Example:
        >>> split_lines("one\r\ntwo\u2028three\n\nfour")
        ['one', 'two\u2028three', '', 'four']
    """
    lines = _LINES.findall(text)
    return lines if keep_ends else [line.rstrip("\r\n") for line in lines]


class Line(NamedTuple):
    """One line.

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
    """Yields the lines of a stream; byte order marks are taken away.

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
            # Files that were put together have a mark at the start of each.
            content = line.rstrip(b"\r\n").removeprefix(_BYTE_ORDER_MARK)
            yield Line(number, end, None if dropped else content)
            dropped = 0

    while block := stream.read():
        # A "\r" at the end of a block may belong to the "\n" of the next.
        waits = bool(parts) and parts[-1].endswith(b"\r")
        if not (waits or b"\n" in block or b"\r" in block):
            parts.append(block)
            held += len(block)
            if dropped or held > MAX_LINE_BYTES:
                dropped += held
                parts, held = [], 0
            continue
        lines = _split(b"".join([*parts, block]))
        parts = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        while parts[:1] == [b"\r"] and lines and len(parts) < _MAX_RETURNS:
            if not lines[-1].endswith(b"\r"):
                break
            parts.insert(0, lines.pop())
        held = sum(map(len, parts))
        yield from finished(lines)
    rest = _split(b"".join(parts))
    yield from finished(rest or ([b""] if dropped else []))


def _split(content: bytes) -> list[bytes]:
    if b"\r\r" in content:
        return _BYTE_LINES.findall(content)
    return content.splitlines(keepends=True)  # the same, and several times faster
