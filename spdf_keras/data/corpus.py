"""Documents out of text files."""

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

from spdf_keras.errors import InputError


def open_text(path: str | Path) -> str:
    """Reads a UTF-8 file, unpacked where its name ends in `.gz`.

    Raises:
        InputError: If it is missing, not gzip, cut, or not UTF-8.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"'{path}' is not UTF-8 text: {error.reason} at byte {error.start}."
        raise InputError(message) from error
    except EOFError as error:
        raise InputError(
            f"'{path}' is cut short: its gzip stream has no end."
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"Cannot read '{path}': {reason}.") from error


def read_documents(paths: Sequence[str | Path]) -> Iterator[str]:
    """Yields the documents of plain text files: blocks between blank lines.

    Args:
        paths: `.txt` files, or `.gz` of them.

    Raises:
        InputError: If a file cannot be read.
    """
    for path in paths:
        lines: list[str] = []
        for line in [*open_text(path).splitlines(), ""]:
            if line.strip():
                lines.append(line.strip())
            elif lines:
                yield "\n".join(lines)
                lines = []
