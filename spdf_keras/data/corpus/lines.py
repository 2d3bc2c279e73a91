r"""Lines of files and texts, each with the place where it ends.

A line ends at `\n`, with any `\r` right before it, or at a `\r` alone. Nothing else
ends one: form feeds, NEL and U+2028 stand inside lines. All readers of lines go by
this, through `read_lines` or `split_lines`. A place is an offset in the decompressed
bytes, from which reading can go on later.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from spdf_keras.data.corpus.streams import Stream

# Longer lines are left unread: a file without line ends must not fill the memory.
MAX_LINE_BYTES = 2**28
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# Runs of `\r` before a `\n` are held until the `\n` comes; longer runs are lines.
_MAX_RETURNS = 8
_LINES = re.compile(rf"[^\r\n]*+(?:\r{{0,{_MAX_RETURNS}}}\n|\r)|[^\r\n]+")
_BYTE_LINES = re.compile(_LINES.pattern.encode())


def split_lines(text: str, keep_ends: bool = False) -> list[str]:
    r"""The lines of a text, split as `read_lines` splits a stream.

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
    parts: list[bytes] = []  # the start of a line whose end was not seen yet
    held = dropped = 0  # its bytes in `parts`, and its bytes that were dropped

    def finished(lines: list[bytes]) -> Iterator[Line]:
        nonlocal number, end, dropped
        for line in lines:
            number, end = number + 1, end + dropped + len(line)
            # In concatenated files, each may start with a byte order mark.
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
    return content.splitlines(keepends=True)  # equal here, and several times faster
