"""Writes artefacts that appear whole or not at all, and replace nothing else."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spdf_keras.errors import InputError
from spdf_keras.files import UNFINISHED
from spdf_keras.folders import LOCK, is_nothing, make_folder, remove_empty
from spdf_keras.locks import lock

# Names that the exporters give in a folder. Nothing else is removed when a folder is
# replaced.
_WRITTEN = re.compile(
    r"(saved_model|keras_metadata|fingerprint)\.pb|variables|assets|card\.json"
    r"|artefact\.json|(weights|check)\.safetensors|\w+(\.skipping)?\.stablehlo"
)
# A stage is a folder with unfinished files: in a folder that is being written, or
# beside a file, whose name then stands first.
_STAGE = re.compile(rf"(\..+)?\.spdf_keras-\w+{re.escape(UNFINISHED)}")


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

    Args:
        path: Where the file or folder is to appear.
        overwrite: Whether it may replace an earlier export.
        folder_with: For a folder, the file by which a folder of its kind is known:
            no other folder is replaced. This file appears last.
        beside: For a file, another one that the caller will write beside it.

    Yields:
        A path that does not exist yet, with the name of `path`.

    Raises:
        InputError: If `path` holds something that must stay, another process writes
            there, or no file can be written there.
    """
    path = Path(path)
    _check_target(path, overwrite, folder_with, beside)
    target = Path(os.path.realpath(path))
    holder = target if folder_with else target.parent
    prefix = "" if folder_with else f".{target.name}"
    new_folders: list[Path] = []
    try:
        new_folders = make_folder(holder)
        with lock(holder / f"{prefix}{LOCK}", f"'{path}'"):
            _check_target(path, overwrite, folder_with, beside)
            _tidy(holder, prefix)
            with _stage(holder, prefix) as stage:
                new = stage / target.name
                yield new
                if folder_with:
                    _fill(target, new, stage / "replaced", last=folder_with)
                else:
                    os.replace(new, target)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"Cannot write to '{path}': {error.strerror}.") from error
    finally:
        remove_empty(new_folders)


@contextlib.contextmanager
def _stage(holder: Path, prefix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        prefix=f"{prefix}.spdf_keras-", suffix=UNFINISHED, dir=holder
    ) as folder:
        yield Path(folder)


def _tidy(holder: Path, prefix: str) -> None:
    """Removes the stages that killed processes left of the same export."""
    for path in holder.iterdir():
        stage = _STAGE.fullmatch(path.name)
        if stage and (stage[1] or "") == prefix:
            shutil.rmtree(path)


def _fill(target: Path, new: Path, replaced: Path, last: str) -> None:
    """Moves the content of `new` into `target`, and its earlier files to `replaced`."""
    replaced.mkdir()
    # Without the file `last` a folder is no artefact: it goes first, and comes last.
    order = sorted(os.listdir(target), key=lambda name: name != last)
    for name in filter(_WRITTEN.fullmatch, order):
        os.replace(target / name, replaced / name)
    for name in sorted(os.listdir(new), key=lambda name: name == last):
        os.replace(new / name, target / name)


def _check_target(
    path: Path, overwrite: bool, folder_with: str | None, beside: Path | None
) -> None:
    kind, other = ("folder", "file") if folder_with else ("file", "folder")
    if path.exists() and path.is_dir() != bool(folder_with):
        raise InputError(
            f"`path` must name a {kind}. Received: '{path}', which is a {other}."
        )
    names = _content(path) if folder_with else []
    taken = next(
        (p for p in (path, beside) if p and not folder_with and _has_content(p)), None
    )
    if not names and taken is None:
        return
    if not overwrite:
        raise InputError(
            f"`path` must be new. Received: '{taken or path}', which exists. Choose "
            "another, or replace it with overwrite=True."
        )
    if not folder_with:
        return
    if not (path / folder_with).is_file():
        raise InputError(
            f"A folder is only replaced if it holds '{folder_with}'. Received: "
            f"'{path}', which does not. Choose another path."
        )
    foreign = [name for name in names if not _WRITTEN.fullmatch(name)]
    if foreign:
        raise InputError(
            f"A folder is only replaced if it holds what an export has written. "
            f"Received: '{path}', with '{foreign[0]}'. Move that away, or choose "
            "another path."
        )


def _content(path: Path) -> list[str]:
    names = sorted(os.listdir(path)) if path.exists() else []
    return [n for n in names if not is_nothing(n) and not _STAGE.fullmatch(n)]


def _has_content(path: Path) -> bool:
    """Whether a file has content; callers of `tempfile` give an empty file."""
    return path.exists() and path.stat().st_size > 0


def size_bytes(path: str | Path) -> int:
    """Adds up the bytes of a file, or of all files in a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
