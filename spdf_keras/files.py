"""Atomic writes (a file is complete or unchanged), and the cache folder."""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

# Suffix of a temporary file that a killed process left.
UNFINISHED = ".unfinished"
# Errors of a disk that is full, cannot be written to, or takes no file of this size.
_REFUSED_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{16}}{re.escape(UNFINISHED)}")


def cache_folder() -> Path:
    """Returns the folder of files that can be made again: compiled code, tables.

    It is `$SPDF_CACHE` if that is set, else `$XDG_CACHE_HOME/spdf_keras`, else
    `~/.cache/spdf_keras`. It may not exist yet.

    Raises:
        RuntimeError: If neither variable is set and there is no home folder.
    """
    if folder := os.environ.get("SPDF_CACHE"):
        return Path(folder)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "spdf_keras"


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Opens a temporary file that becomes `path` when the block ends well.

    The temporary file has a unique name, so two processes that write the same file do
    not interfere, and no other file is touched. Its content is on the disk before it
    gets its final name. A link is followed.

    Args:
        path: The file.
        mode: `w` for UTF-8 text, `wb` for bytes.
        **options: Further arguments of `open`.
    """
    path = Path(os.path.realpath(path))
    temporary = temporary_path(path)
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    try:
        # With "x" the system refuses to open a file that exists.
        with temporary.open(mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes UTF-8 text or bytes to a file; see `replacing`."""
    with replacing(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)


def write_failure(error: BaseException) -> str:
    """Returns why a disk has refused to be written to; empty for any other error.

    TensorFlow and other libraries report a full disk as errors of their own, which are
    known by the system's words in them.

    Example:
        >>> write_failure(OSError(errno.ENOSPC, "No space left on device"))
        'No space left on device'
    """
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno) if error.errno in _REFUSED_WRITES else ""
    text = str(error)
    reasons = map(os.strerror, _REFUSED_WRITES)
    return next((reason for reason in reasons if reason in text), "")


def temporary_path(path: Path, key: str = "") -> Path:
    """Returns a path beside a file for its content until it is complete.

    Args:
        path: The file.
        key: 16 hexadecimal digits, if a later process must find the same path again;
            if it is empty, they are random.
    """
    return path.with_name(f".{path.name}.{key or secrets.token_hex(8)}{UNFINISHED}")


def is_temporary(name: str) -> bool:
    """Whether a file's name has the form that `temporary_path` uses."""
    return _TEMPORARY.fullmatch(name) is not None


def sync_folder(folder: Path) -> None:
    """Waits until a folder's files and its list of files are on the disk."""
    for path in (*folder.iterdir(), folder):
        if path.is_file() or path == folder:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Removes files of a folder by name, then the folder if nothing else is in it."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    with contextlib.suppress(OSError):  # the folder is not empty, or missing
        folder.rmdir()
