"""Documents out of a corpus: JSON lines or plain text, compressed or not.

In JSON lines (`.jsonl`, `.ndjson`, `.jsonlines`, `.jl`), the Pile's layout, each line
is an object whose `text` is a document. In plain text, documents are the blocks
between blank lines, their lines without the spaces around them. The case of endings
does not matter. The content of a file with another ending, or none, decides its form;
a file whose name and content contradict each other is refused. Files of both forms may
be compressed with gzip, bzip2, xz or zstd, which their content shows.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spdf_keras.data.corpus.inputs import corpus_form
from spdf_keras.data.corpus.lines import MAX_LINE_BYTES, Line, read_lines
from spdf_keras.data.corpus.pieces import (
    MAX_RUN_CHARACTERS,
    PIECE_CHARACTERS,
    Piece,
    cut,
    json_text_pieces,
    parse_json,
    with_last,
)
from spdf_keras.data.corpus.position import Position
from spdf_keras.data.corpus.streams import DamageError, Stream
from spdf_keras.errors import InputError

ON_ERROR = ("stop", "skip")

# Longer JSON lines are never one string in memory.
_LONG_LINE_BYTES = 2**22


class CorpusReader:
    """Reads documents, and knows where it is.

    A line that cannot be used is refused, or left out and counted: a line that is not
    UTF-8, is longer than 256 MiB, or holds a million characters without a place to
    cut; in JSON lines also a line that is no object with a string `text`. In plain
    text the document goes on without the line.

    A file that cannot be used is refused too, before anything is read, or left out
    and counted as a file: a file that is neither text nor JSON lines, or contradicts
    its name. The same holds for the rest of a compressed file from where it is cut or
    broken; a broken gzip stream may give wrong bytes before its end, where its only
    checksum stands.

    Documents without text, or of spaces alone, are left out and counted.

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
        self._sizes = [file.stat().st_size for file in self._files]
        self._position = Position(mark or {})
        # The form in which each file is read, or the reason why it is not.
        self._forms = [self._form(file) for file in self._files]
        self.file_bytes = sum(self._sizes[: self._position.place[0]])

    def mark(self) -> dict[str, Any]:
        """The place after the document that just ended, and the counts up to it.

        It is valid only between two documents: once the last piece of one was taken.
        """
        return self._position.mark()

    def pieces(self) -> Iterator[Piece]:
        """Yields the documents from the mark on.

        Raises:
            InputError: If a file cannot be read, or a line cannot be used and is not
                to be skipped; the message names file and line.
        """
        first, offset, line = self._position.place
        for index in range(first, len(self._files)):
            path = self._files[index]
            form, reason = self._forms[index]
            if reason:
                why = f"'{path}': {reason}"
                self._position.leave_out("other form", why, "files")
            else:
                is_json = form == "json lines"
                read = self._read_json if is_json else self._read_text
                with Stream(path, offset) as stream:
                    yield from read(index, self._lines(index, stream, line, offset))
            self._position.advance(index + 1)
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
                    # The first pass finds errors before a piece is given away.
                    first_pass = json_text_pieces(content, self._text_key)
                    blank = 0 == sum(not _is_blank(piece) for piece in first_pass)
                    pieces: Iterable[str] = json_text_pieces(content, self._text_key)
                else:
                    text = _text_of(content, self._text_key)
                    blank = _is_blank(text)
                    pieces = cut(text)
            except ValueError as error:
                self._leave_out(index, number, "no document", str(error))
                continue
            self._position.empty_documents += blank
            self._position.advance(index, end, number)
            if not blank:
                yield from with_last(pieces)

    def _read_text(self, index: int, lines: Iterator[Line]) -> Iterator[Piece]:
        block: list[str] = []  # lines; the first may be the rest of a piece
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
                    # Every line is short enough: the block is cut at line ends.
                    *ready, rest = cut("\n".join(block), 2 * MAX_RUN_CHARACTERS)
                    yield from (Piece(piece, last=False) for piece in ready)
                    block, size = [rest], len(rest)
                continue
            if block:
                self._position.advance(index, end, number)
                yield Piece("\n".join(block), last=True)
                block, size = [], 0
        if block:
            # Anything after the block was left out and counted.
            self._position.advance(index + 1)
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
        self._position.leave_out(kind, f"{place}: {reason}", unit)


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
