"""Files that appear whole, or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spdf_keras.errors import InputError


@contextlib.contextmanager
def staged(
    path: str | Path, overwrite: bool, folder_with: str | None = None
) -> Iterator[Path]:
    """Gives a path to write to, which becomes `path` when the block ends well.

    It lies in a new folder beside `path`, which goes at the end in any case and
    has room for intermediate files. Missing parent folders are made.

    Args:
        path: Where the file or folder is to appear.
        overwrite: Whether it may replace what is there.
        folder_with: For a folder, the file by which one of its kind is known:
            nothing else is ever replaced.

    Yields:
        A path that does not exist yet, with the name of `path`.

    Raises:
        InputError: If something is at `path` that must stay, or no file can be
            written there.
    """
    path = Path(path)
    _check_target(path, overwrite, folder_with)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise InputError(f"Cannot write to '{path}': {error.strerror}.") from error
    with stage as folder:
        new = Path(folder) / path.name
        yield new
        if folder_with and path.exists():
            os.rename(path, Path(folder) / f"{path.name}.replaced")
        os.replace(new, path)


def _check_target(path: Path, overwrite: bool, folder_with: str | None) -> None:
    kind, other = ("folder", "file") if folder_with else ("file", "folder")
    if path.exists() and path.is_dir() != bool(folder_with):
        raise InputError(
            f"`path` must name a {kind}. Received: '{path}', which is a {other}."
        )
    if not path.exists() or size_bytes(path) == 0:
        return
    if not overwrite:
        raise InputError(
            f"`path` must be new. Received: '{path}', which exists. Choose another, "
            "or replace it with overwrite=True."
        )
    if folder_with and not (path / folder_with).is_file():
        raise InputError(
            f"A folder is only replaced if it holds '{folder_with}'. Received: "
            f"'{path}', which does not. Choose another path."
        )


def size_bytes(path: str | Path) -> int:
    """Size of a file, or of all files in a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
