"""Documents out of a corpus: JSON lines or plain text, packed or not.

In JSON lines (`.jsonl`, `.ndjson`, `.jsonlines`, `.jl`), the Pile's layout, each line
is an object whose `text` is a document. In plain text, documents are the blocks
between blank lines, their lines without the spaces around them. Endings count
without case. A file with another ending, or none, is what its content says; where
name and content contradict each other, it is refused. Both forms may be packed with
gzip, bzip2, xz or zstd, which is told by the content too.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spdf_keras.data.corpus.forms import HEAD_BYTES, why_not_text
from spdf_keras.data.corpus.inputs import corpus_form
from spdf_keras.data.corpus.inputs import find_inputs as find_inputs
from spdf_keras.data.corpus.pieces import (
    MAX_RUN_CHARACTERS,
    PIECE_CHARACTERS,
    cut,
    json_text_pieces,
    parse_json,
)
from spdf_keras.data.corpus.streams import (
    MAX_LINE_BYTES,
    DamageError,
    Line,
    Stream,
    read_lines,
)
from spdf_keras.errors import InputError

ON_ERROR = ("stop", "skip")

# Longer JSON lines are never one string in memory.
_LONG_LINE_BYTES = 2**22


def open_text(path: str | Path) -> str:
    """Reads a UTF-8 file, unpacked where it is packed.

    Raises:
        InputError: If it is missing, cut, broken, or not UTF-8.
    """
    try:
        with Stream(path) as stream:
            content = b"".join(iter(stream.read, b""))
        if (binary := why_not_text(content[:HEAD_BYTES])) is not None:
            raise InputError(f"'{path}' is not UTF-8 text: it is {binary}.")
        return content.decode("utf-8-sig")
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
    place to cut; in JSON lines also one that is no object with a string `text`.
    In plain text the document goes on without the line.

    A file that cannot be used is refused too, before anything is read, or left out
    and counted as a file: one that is neither text nor JSON lines, or not what its
    name says. So is the rest of a packed file from where it is cut or broken; what
    comes out of a broken gzip stream before its end may be wrong, as its only
    checksum is there.

    Documents of spaces alone, or of nothing, are left out and counted.

    Args:
        files: As from `find_inputs`.
        on_error: `stop` refuses what cannot be used, `skip` leaves it out.
        mark: Where to go on: an earlier result of `mark`.
        text_key: The key of a document in JSON lines.

    Raises:
        InputError: If a file cannot be read, or is in a form that cannot be used
            and is not to be skipped.
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
        self._files, self._skip = [Path(file) for file in files], on_error == "skip"
        self._text_key = text_key
        mark = mark or {}
        self._sizes = [file.stat().st_size for file in self._files]
        # Of the next document: its file, its offset there, lines before it.
        self._place: tuple[int, ...] = tuple(mark.get("place", (0, 0, 0)))
        self._empty = mark.get("empty_documents", 0)
        self._skipped: dict[str, dict[str, Any]] = {
            reason: dict(found) for reason, found in mark.get("skipped", {}).items()
        }
        self._left_out: list[tuple[str, str, str]] = []  # after the mark
        # How each file is read, or why it is not.
        self._forms = [self._form(file) for file in self._files]
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
            form, reason = self._forms[index]
            if reason:
                self._left_out.append(("other form", f"'{path}': {reason}", "files"))
            else:
                is_json = form == "json lines"
                read = self._read_json if is_json else self._read_text
                with Stream(path, offset) as stream:
                    yield from read(index, self._lines(index, stream, line, offset))
            self._advance(index + 1, 0, 0)
            offset = line = 0
            self.file_bytes = sum(self._sizes[: index + 1])

    @property
    def has_json_lines(self) -> bool:
        """Whether one of the files is read as JSON lines."""
        return any(form == "json lines" for form, _ in self._forms)

    def _form(self, file: Path) -> tuple[str, str]:
        try:
            return corpus_form(file), ""
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            if not self._skip:
                raise InputError(
                    f"Cannot read '{file}': {error}. With `--on-error skip`, such "
                    "files are left out and counted."
                ) from error
            return "", str(error)

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
            reason = f"the file {error}"
            self._leave_out(index, number + 1, "broken file", reason, "files")

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

    def _leave_out(
        self, index: int, number: int, kind: str, reason: str, unit: str = "lines"
    ) -> None:
        place = f"'{self._files[index]}', line {number}"
        if not self._skip:
            raise InputError(
                f"{place}: {reason}. With `--on-error skip`, such {unit} are left out "
                "and counted."
            )
        self._left_out.append((kind, f"{place}: {reason}", unit))

    def _advance(self, *place: int) -> None:
        """Moves the mark, and counts what was left out on the way to it."""
        self._place = place
        for kind, first, unit in self._left_out:
            new = {"count": 0, "unit": unit, "first": first}
            found = self._skipped.setdefault(kind, new)
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
    return str(record[key])


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
