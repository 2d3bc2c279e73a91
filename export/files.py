"""Writes artefacts that appear whole or not at all, and replace nothing else."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spdf_keras.export.publish import empty_files, publish_files, publish_folder
from spdf_keras.export.targets import STAGE, check_target, disk_error, refusals
from spdf_keras.files import UNFINISHED, temporary_path, write_failure
from spdf_keras.folders import LOCK, make_folder, remove_empty
from spdf_keras.locks import lock


@contextlib.contextmanager
def staged(
    path: str | Path,
    overwrite: bool,
    folder_with: str | None = None,
    beside: Path | None = None,
) -> Iterator[Path]:
    """Gives a path to write to, which becomes `path` when the block ends well.

    That path lies in a new folder on the same disk, its stage, which is removed at the
    end in any case and has room for intermediate files. Missing parent folders are
    made. One process at a time writes to a path. A folder that exists is filled, not
    replaced, so that it can be a link, the working folder or a mounted disk; while it
    is filled, it lacks `folder_with` for a moment.

    All of this is tried before the block starts, so that a path that cannot be
    written to costs no work. Without `overwrite`, what somebody else puts at `path`
    while the block runs stays there, and the export ends with an error.

    Args:
        path: Where the file or folder is to appear.
        overwrite: Whether it may replace an earlier export.
        folder_with: For a folder, the file by which a folder of its kind is known:
            no other folder is replaced. This file appears last.
        beside: For a file, another one that appears with it. The block writes it
            beside the path that it gets, under the name of `beside`.

    Yields:
        A path that does not exist yet, with the name of `path`.

    Raises:
        InputError: If `path` holds something that must stay, another process writes
            there, or no file can be written there.
        ExportError: If the disk is full, also where another part of the program finds
            that out.
    """
    with contextlib.ExitStack() as stack:
        with refusals(path):
            check_target(path, overwrite, folder_with, beside)
            target = Path(os.path.realpath(path))
            holder = target if folder_with else target.parent
            prefix = "" if folder_with else f".{target.name}"
            stack.callback(remove_empty, make_folder(holder))
            stack.enter_context(lock(holder / f"{prefix}{LOCK}", f"'{path}'"))
            check_target(path, overwrite, folder_with, beside)
            _tidy(holder, prefix)
            stage = Path(stack.enter_context(_stage(holder, prefix)))
            new = stage / target.name
            moves = [(new, target)]
            if beside is not None:
                _try_name(new.with_name(beside.name))
                place = Path(os.path.realpath(beside))
                moves.append((new.with_name(beside.name), place))
            empty = empty_files([place for _, place in moves])
        try:
            yield new
        except Exception as error:
            if reason := write_failure(error):
                raise disk_error(path, reason) from error
            raise
        with refusals(path):
            if folder_with:
                publish_folder(target, new, overwrite, last=folder_with)
            else:
                others = [move for move in moves[1:] if move[0].exists()]
                publish_files([moves[0], *others], overwrite, empty)


@contextlib.contextmanager
def _stage(holder: Path, prefix: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(
        prefix=f"{prefix}.spdf_keras-", suffix=UNFINISHED, dir=holder
    ) as folder:
        yield folder


def _try_name(path: Path) -> None:
    """Tries the longest name that a write gives; the system may allow no such name."""
    temporary = temporary_path(path)
    temporary.touch()
    temporary.unlink()


def _tidy(holder: Path, prefix: str) -> None:
    """Removes the stages that killed processes left of the same export."""
    for path in holder.iterdir():
        stage = STAGE.fullmatch(path.name)
        if stage and (stage[1] or "") == prefix:
            shutil.rmtree(path)


def size_bytes(path: str | Path) -> int:
    """Adds up the bytes of a file, or of all files in a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
