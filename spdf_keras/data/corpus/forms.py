"""The form of a file, by the ending of its name and the start of its text.

A name may promise what a file does not hold: a `.jsonl` can be one JSON array, a
file without an ending can be JSON lines, a `.txt` can be a csv. Every reader checks
the form here first, so that text in another form is never taken for plain lines.
"""

import json
import re
from pathlib import Path

from spdf_keras.data.corpus.lines import split_lines
from spdf_keras.data.corpus.streams import (
    COMPRESSED_SUFFIXES,
    DamageError,
    Stream,
    compression_of,
)
from spdf_keras.errors import InputError

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines", ".jl")
TEXTS = (".txt", ".text")
# Files with these endings never hold plain lines, whatever they look like.
STRUCTURED = {
    **dict.fromkeys(JSON_LINES, "JSON lines"),
    ".json": "JSON",
    ".csv": "a csv",
    ".tsv": "a table with tabs",
    ".xml": "xml",
    ".sgm": "SGML",
    ".sgml": "SGML",
    ".html": "HTML",
    ".htm": "HTML",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".ipynb": "a notebook",
}
HEAD_BYTES = 2**16

_BINARY = (
    (rb"\xff\xfe\0\0|\0\0\xfe\xff", "UTF-32 text; turn it into UTF-8"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text; turn it into UTF-8"),
    (rb"PK\x03\x04", "a zip archive or an office document"),
    (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07", "an archive; extract it"),
    (
        rb"\x04\x22\x4d\x18|\x1f\x9d|LZIP|\x5d\0\0",
        "compressed in a way that is not known here",
    ),
    (rb"(?s:.{257})ustar", "a tar archive; extract it"),
    (rb"%PDF-", "a PDF"),
    (rb"PAR1|ARROW1|Obj\x01|\x93NUMPY|\x89HDF|SQLite format 3", "a binary table"),
    (
        rb"version https://git-lfs\.github\.com/spec/",
        "a pointer of Git LFS, whose file was not fetched; see `git lfs pull`",
    ),
)
_NAMES = [(re.compile(pattern), name) for pattern, name in _BINARY]
_CONTROLS = bytes({*range(32)} - {*b"\t\n\r\f\v\x1b"})
# In UTF-16 text of most alphabets, half of the bytes are zeros.
_MANY = 1 / 8

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_OBJECT = re.compile(rf"\{{\s*(?:{_STRING}\s*:|\}})")
_ARRAY = re.compile(rf"\[\s*(?:\{{\s*[\"}}]|{_STRING}\s*[,\]])")
_MARKUP = re.compile(
    r"<(?:\?xml|!doctype|benchmark|mteval|(?:ref|tst|src)set|html)\b", re.IGNORECASE
)


def ending(path: str | Path) -> str:
    """The ending of a name in lower case, without that of a compression.

    Example:
        >>> ending("pile/00.JSONL.zst"), ending("README"), ending("a.tgz")
        ('.jsonl', '', '.tar')
    """
    path = Path(path)
    last = path.suffix.lower()
    if last in (".tgz", ".tbz2", ".txz"):
        return ".tar"
    return path.with_suffix("").suffix.lower() if last in COMPRESSED_SUFFIXES else last


def head_of(path: str | Path) -> bytes:
    """The first 64 KiB of a file, decompressed; less where the stream is damaged.

    Raises:
        InputError: If the file cannot be opened or read.
    """
    head = b""
    with Stream(path) as stream:
        try:
            while len(head) < HEAD_BYTES and (block := stream.read(HEAD_BYTES)):
                head += block
        except DamageError:
            pass  # reported with its place when the file is read
    return head[:HEAD_BYTES]


def why_not_text(head: bytes) -> str | None:
    """A few words about a file with this start, if it is no UTF-8 text.

    Single lines that are not UTF-8 do not count: readers refuse them by their number.

    Example:
        >>> why_not_text("text".encode("utf-16"))
        'UTF-16 text; turn it into UTF-8'
    """
    for pattern, name in _NAMES:
        if pattern.match(head):
            return name
    compression = compression_of(head)
    if compression:
        return f"compressed twice, with {compression} inside; decompress it once"
    if head.count(0) > _MANY * len(head):
        return "UTF-16 text without a byte order mark, or binary data"
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if controls and not _is_utf8(head) and (0 in head or controls > len(head) / 20):
        return "binary data"
    return None


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The end of the head may cut a character.
        return len(head) == HEAD_BYTES and error.start > len(head) - 4
    return True


def form_of(text: str) -> str:
    """The form of a text, by its start.

    Args:
        text: The start of a file, or all of it.

    Returns:
        `json lines`, `json array`, `json` (one object over several lines),
        `markup` or `text`.

    Example:
        >>> [form_of(text) for text in ('{"text": "a"}', '[{"a": 1}]', "{a} is text")]
        ['json lines', 'json array', 'text']
    """
    text = text.lstrip("\ufeff \t\r\n\f\v")
    if _MARKUP.match(text):
        return "markup"
    if not (is_object := bool(_OBJECT.match(text))) and not _ARRAY.match(text):
        return "text"
    first, *more = [line.strip() for line in split_lines(text) if line.strip()]
    if not is_object:
        return "json lines" if more and _is_json(first) else "json array"
    if not more:
        return "json lines"
    if not _is_json(first):
        # The next line completes such a first line; a damaged one has an end.
        return "json" if first.endswith(("{", "[", ",", ":")) else "json lines"
    # Plain text may quote an object in its first line.
    is_lines = '"text"' in first or _OBJECT.match(more[0])
    return "json lines" if is_lines else "text"


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def form_of_head(head: bytes) -> str:
    """The form of bytes, as `form_of` has it."""
    return form_of(head.decode("utf-8", "replace"))


def open_text(path: str | Path) -> str:
    """Reads a UTF-8 file, decompressed where it is compressed.

    Raises:
        InputError: If the file is missing, cut, broken, or not UTF-8.
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
