r"""Pieces of long documents, whose token ids together are those of the whole.

GPT-2 splits text with a regular expression before it merges bytes:

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

The ids of two pieces, one after the other, are those of the whole text if the split
has a boundary between them, and neither side looks across it. This is so before

- a space or line feed after something that is no space: a match holds a space
  only as its first character or is all spaces, so none runs across, and no match
  before it looks past a character that is no space;
- a digit or punctuation after a letter: a match with a letter ends with letters
  (`'s` too), so it ends there whether the text goes on or not.

Nothing in the expression looks back, so the right side starts afresh.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from spdf_keras.parsing import load_json

PIECE_CHARACTERS = 2**18
# `tokenizers` takes up to 400 bytes of memory per character of one word.
MAX_RUN_CHARACTERS = 2**20

# Ranges name letters here: later versions of Unicode add letters, but every letter
# stays one, and so do the characters of ASCII.
_PLACE = re.compile(
    r"(?<=\S)[ \n]"
    r"|(?<=[A-Za-z\u0430-\u044f\u3041-\u3096\u4e00-\u9fa5\uac00-\ud7a3])"
    r"[!-@\[-`{-~\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]"
)
_JSON_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
# A cut before these bytes divides no escape, surrogate pair or UTF-8 character.
_JSON_PLACE = re.compile(rb"[ \xc2-\xf4]")


class Piece(NamedTuple):
    """A document, or a part of a long one.

    Attributes:
        text: Some characters; none only as the end of a long document.
        last: Whether the document ends here.
    """

    text: str
    last: bool


def cut(text: str, max_run: int = MAX_RUN_CHARACTERS) -> list[str]:
    """Cuts a text into pieces that can be tokenised one by one.

    All pieces except the last have at least `PIECE_CHARACTERS`; a short text is one
    piece.

    Args:
        text: Anything.
        max_run: Characters that a piece may go on until there is a place to cut.

    Raises:
        ValueError: If one goes on longer.

    Example:
        >>> [len(piece) for piece in cut("word " * 60_000)]
        [262144, 37856]
    """
    pieces, start = [], 0
    while len(text) - start > PIECE_CHARACTERS:
        place = _PLACE.search(text, start + PIECE_CHARACTERS)
        stop = place.start() if place else len(text)
        if stop - start > PIECE_CHARACTERS + max_run:
            raise ValueError(
                f"it has more than {max_run:,} characters without a "
                "space or another place to cut"
            )
        if place is None:
            break
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]


def with_last(pieces: Iterable[str]) -> Iterator[Piece]:
    """Marks the last of a document's pieces."""
    before = None
    for piece in pieces:
        if before is not None:
            yield Piece(before, last=False)
        before = piece
    if before is not None:
        yield Piece(before, last=True)


def json_text_pieces(line: bytes, text_key: str = "text") -> Iterator[str]:
    """Yields the text of a long JSON line as pieces, in little more memory.

    Args:
        line: A JSON object.
        text_key: The key of its text.

    Raises:
        ValueError: As from `cut`, or if the line is no JSON object with a string of
            this key; the message says what is wrong. Pieces may come before it.
    """
    spans: list[tuple[int, int]] = []

    def number(match: re.Match[bytes]) -> bytes:
        spans.append(match.span())
        return b'"%d"' % (len(spans) - 1)

    def read(start: int, stop: int) -> str:
        return str(json.loads(b'"%b"' % line[start:stop]))

    # Each string, key or value, is replaced by its number: the rest is short.
    record = parse_json(_JSON_STRING.sub(number, line))
    place = None
    longest = 12 * len(text_key) + 2  # a character takes two escapes of six bytes
    for key, value in record.items() if isinstance(record, dict) else ():
        start, stop = spans[int(key)]
        if stop - start <= longest and read(start + 1, stop - 1) == text_key:
            place = value
    if place is None:
        raise ValueError(f"it has no `{text_key}`")
    if not isinstance(place, str):
        raise ValueError(f"its `{text_key}` is not a string")
    start, end = spans[int(place)]
    start, end = start + 1, end - 1
    rest = ""
    while start < end:
        match = _JSON_PLACE.search(line, min(start + PIECE_CHARACTERS, end), end)
        stop = match.start() if match else end
        content = b'"%b"' % line[start:stop]
        *ready, rest = cut(rest + str(parse_json(content)))
        yield from ready
        start = stop
    yield rest


def parse_json(content: bytes) -> object:
    """Parses UTF-8 JSON.

    Raises:
        ValueError: If it is not UTF-8 or not JSON; the message says which.
    """
    try:
        return load_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8: {error.reason} at byte {error.start}"
        raise ValueError(reason) from error
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
