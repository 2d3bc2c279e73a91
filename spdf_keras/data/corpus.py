"""Documents out of a corpus: JSON lines or plain text, packed or not.

In `.jsonl` (or `.ndjson`), the Pile's layout, each line is an object whose `text`
is a document. In every other file, documents are the blocks between blank lines,
their lines without the spaces around them. Both may be packed, as `.gz` or `.zst`.
"""

import glob
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spdf_keras.data.pieces import (
    MAX_RUN_CHARACTERS,
    PIECE_CHARACTERS,
    cut,
    json_text_pieces,
    parse_json,
)
from spdf_keras.data.streams import (
    MAX_LINE_BYTES,
    PACKED_SUFFIXES,
    DamageError,
    Line,
    Stream,
    read_lines,
)
from spdf_keras.errors import InputError

ON_ERROR = ("stop", "skip")

_JSON_LINES = (".jsonl", ".ndjson")
_IN_FOLDERS = (*_JSON_LINES, ".txt")
# Longer JSON lines are never one string in memory.
_LONG_LINE_BYTES = 2**22


def find_inputs(
    names: Iterable[str | Path], leave_out: Sequence[Path] = ()
) -> list[Path]:
    """The files that names stand for, in the order in which they are read.

    Args:
        names: Files; folders, for the `.jsonl`, `.ndjson` and `.txt` files under
            them, packed or not, sorted by path; patterns such as `data/**/*.zst`.
        leave_out: Folders whose files are no input, such as the output.

    Raises:
        InputError: If a name stands for no file, a file is given twice, or is
            `.json`, of which there is no telling what a document is.
    """
    outside = [folder.absolute() for folder in leave_out]
    found: dict[Path, None] = {}
    for name in names:
        files = [
            file
            for file in _files(Path(name))
            if not any(file.is_relative_to(folder) for folder in outside)
        ]
        if not files:
            raise InputError(
                f"Cannot read '{name}': there is no such file, or no file in it ends "
                f"in {', '.join(_IN_FOLDERS)}, alone or before .gz or .zst."
            )
        for file in files:
            if file in found:
                raise InputError(f"The file '{file}' is given twice.")
            if _kind(file) == ".json":
                raise InputError(
                    f"Cannot read '{file}': a corpus is JSON lines (.jsonl) or text."
                )
            found[file] = None
    return list(found)


def _files(name: Path) -> list[Path]:
    name = name.absolute()
    if name.is_dir():
        inside = sorted(path for path in name.rglob("*") if path.is_file())
        return [path for path in inside if _kind(path) in _IN_FOLDERS]
    if not name.exists() and glob.has_magic(str(name)):
        matches = sorted(map(Path, glob.glob(str(name), recursive=True)))
        return [path for path in matches if path.is_file()]
    return [name] if name.exists() else []


def _kind(path: Path) -> str:
    packed = path.suffix in PACKED_SUFFIXES
    return (path.with_suffix("") if packed else path).suffix


def is_json_lines(path: Path) -> bool:
    """Whether a file of a corpus is read as JSON lines, and not as text."""
    return _kind(path) in _JSON_LINES


def open_text(path: str | Path) -> str:
    """Reads a UTF-8 file, unpacked where its name ends in `.gz` or `.zst`.

    Raises:
        InputError: If it is missing, cut, broken, or not UTF-8.
    """
    try:
        with Stream(path) as stream:
            return b"".join(iter(stream.read, b"")).decode("utf-8-sig")
    except DamageError as error:
        raise InputError(f"'{path}' {error}.") from error
    except UnicodeDecodeError as error:
        message = f"'{path}' is not UTF-8 text: {error.reason} at byte {error.start}."
        raise InputError(message) from error


class Piece(NamedTuple):
    """A document, or a part of a long one.

    Attributes:
        text: Some characters; none only as the end of a long document.
        last: Whether the document ends here.
    """

    text: str
    last: bool


class CorpusReader:
    """Reads documents, and knows where it is.

    A line that cannot be used is refused, or left out and counted. It is one that
    is not UTF-8, is longer than 256 MiB, or holds a million characters without a
    place to cut; in JSON lines also one that is no object with a string `text`;
    and the last one of a packed file that is cut or broken, with which the file
    ends. In plain text the document goes on without the line. What comes out of a
    broken gzip stream before its end may be wrong: its only checksum is there.

    Documents of spaces alone, or of nothing, are left out and counted.

    Args:
        files: As from `find_inputs`.
        on_error: `stop` refuses what cannot be used, `skip` leaves it out.
        mark: Where to go on: an earlier result of `mark`.
        text_key: The key of the text in JSON lines.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        on_error: str = "stop",
        mark: dict[str, Any] | None = None,
        text_key: str = "text",
    ) -> None:
        if on_error not in ON_ERROR:
            known = ", ".join(ON_ERROR)
            raise InputError(f"`on_error` must be one of {known}. Received: {on_error}")
        self._text_key = text_key
        self._files, self._skip = [Path(file) for file in files], on_error == "skip"
        mark = mark or {}
        self._sizes = [file.stat().st_size for file in self._files]
        # Of the next document: its file, its offset there, lines before it.
        self._place: tuple[int, ...] = tuple(mark.get("place", (0, 0, 0)))
        self._empty = mark.get("empty_documents", 0)
        self._skipped: dict[str, dict[str, Any]] = {
            reason: dict(found) for reason, found in mark.get("skipped", {}).items()
        }
        self._left_out: list[tuple[str, str]] = []  # after the mark
        self.file_bytes = sum(self._sizes[: self._place[0]])

    def mark(self) -> dict[str, Any]:
        """The place after the document that just ended, and the counts up to it.

        Only between two documents: when the last piece of one was taken.
        """
        return {
            "place": list(self._place),
            "empty_documents": self._empty,
            "skipped": {reason: dict(found) for reason, found in self._skipped.items()},
        }

    def pieces(self) -> Iterator[Piece]:
        """Yields the documents from the mark on.

        Raises:
            InputError: If a file cannot be read, or a line that cannot be used is
                not to be skipped; it names file and line.
        """
        first, offset, line = self._place
        for index in range(first, len(self._files)):
            path = self._files[index]
            read = self._read_json if is_json_lines(path) else self._read_text
            with Stream(path, offset) as stream:
                yield from read(index, self._lines(index, stream, line, offset))
            self._advance(index + 1, 0, 0)
            offset = line = 0
            self.file_bytes = sum(self._sizes[: index + 1])

    def _lines(
        self, index: int, stream: Stream, number: int, offset: int
    ) -> Iterator[Line]:
        before = sum(self._sizes[:index])
        try:
            for line in read_lines(stream, number, offset):
                self.file_bytes = before + stream.file_bytes()
                number = line.number
                if line.content is None:
                    reason = f"it has more than {MAX_LINE_BYTES:,} bytes"
                    self._leave_out(index, number, "too long", reason)
                else:
                    yield line
        except DamageError as error:
            self._leave_out(index, number + 1, "broken file", f"the file {error}")

    def _read_json(self, index: int, lines: Iterator[Line]) -> Iterator[Piece]:
        for number, end, content in lines:
            assert content is not None
            if content.isspace() or not content:
                continue
            try:
                if len(content) > _LONG_LINE_BYTES:
                    # Read through once before a piece is given away.
                    found = json_text_pieces(content, self._text_key)
                    blank = 0 == sum(not _is_blank(piece) for piece in found)
                    pieces: Iterable[str] = json_text_pieces(content, self._text_key)
                else:
                    text = _text_of(content, self._text_key)
                    blank = _is_blank(text)
                    pieces = cut(text)
            except ValueError as error:
                self._leave_out(index, number, "no document", str(error))
                continue
            self._empty += blank
            self._advance(index, end, number)
            if not blank:
                yield from _with_last(pieces)

    def _read_text(self, index: int, lines: Iterator[Line]) -> Iterator[Piece]:
        block: list[str] = []  # lines, the first of them maybe the rest of a piece
        size = 0
        for number, end, content in lines:
            assert content is not None
            try:
                text = content.decode("utf-8").strip()
                if len(text) > PIECE_CHARACTERS:
                    cut(text)
            except UnicodeDecodeError as error:
                reason = f"it is not UTF-8: {error.reason} at byte {error.start}"
                self._leave_out(index, number, "not UTF-8", reason)
                continue
            except ValueError as error:
                self._leave_out(index, number, "too long", str(error))
                continue
            if text:
                block.append(text)
                size += len(text) + 1
                if size > PIECE_CHARACTERS:
                    # Each line was looked at: the whole is cut at its line ends.
                    *ready, rest = cut("\n".join(block), 2 * MAX_RUN_CHARACTERS)
                    yield from (Piece(piece, last=False) for piece in ready)
                    block, size = [rest], len(rest)
                continue
            if block:
                self._advance(index, end, number)
                yield Piece("\n".join(block), last=True)
                block, size = [], 0
        if block:
            # What the file may still hold was left out, and counted.
            self._advance(index + 1, 0, 0)
            yield Piece("\n".join(block), last=True)

    def _leave_out(self, index: int, number: int, kind: str, reason: str) -> None:
        place = f"'{self._files[index]}', line {number}"
        if not self._skip:
            raise InputError(
                f"{place}: {reason}. With `--on-error skip`, such lines are left out "
                "and counted."
            )
        self._left_out.append((kind, f"{place}: {reason}"))

    def _advance(self, *place: int) -> None:
        """Moves the mark, and counts what was left out on the way to it."""
        self._place = place
        for kind, first in self._left_out:
            found = self._skipped.setdefault(kind, {"count": 0, "first": first})
            found["count"] += 1
        self._left_out.clear()


def _text_of(content: bytes, key: str) -> str:
    record = parse_json(content)
    if not isinstance(record, dict):
        raise ValueError(f"it has no `{key}`")
    if key not in record:
        strings = [f"`{name}`" for name in record if isinstance(record[name], str)]
        others = f", but {', '.join(strings[:5])} (see `--text-key`)" if strings else ""
        raise ValueError(f"it has no `{key}`{others}")
    if not isinstance(record[key], str):
        raise ValueError(f"its `{key}` is not a string")
    return record[key]


def _is_blank(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("its text has half a surrogate pair") from error
    return not text or text.isspace()


def _with_last(pieces: Iterable[str]) -> Iterator[Piece]:
    before = None
    for piece in pieces:
        if before is not None:
            yield Piece(before, last=False)
        before = piece
    if before is not None:
        yield Piece(before, last=True)


def read_documents(paths: Sequence[str | Path]) -> Iterator[str]:
    """Yields whole documents.

    Args:
        paths: Files of any of the formats.

    Raises:
        InputError: If a file cannot be read, or holds a line that cannot be used.
    """
    parts: list[str] = []
    for piece in CorpusReader(paths).pieces():
        parts.append(piece.text)
        if piece.last:
            yield "".join(parts)
            parts = []
