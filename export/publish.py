"""Gives finished files their names: all of them or none, and takes no name from others.

`os.replace` takes a name from whatever has it by then. A hard link does not: it fails
if the name is taken, in one step that no other process can come between.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from spdf_keras.errors import InputError
from spdf_keras.export.targets import is_written, taken
from spdf_keras.files import temporary_path

# Errors of a file system without hard links, and of two file systems.
_NO_LINKS = (
    *(errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK),
    errno.EXDEV,
)
# Errors of a name that is taken: a folder is not moved onto a file or a full folder.
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)

# What tells the empty file of the beginning apart from a later one of its name.
EmptyFiles = dict[Path, tuple[int, int] | None]


def empty_files(places: Sequence[Path]) -> EmptyFiles:
    """Finds the empty files among some, which callers of `tempfile` make."""
    return {
        place: _identity(place)
        for place in places
        if place.is_file() and not place.stat().st_size
    }


def publish_folder(target: Path, new: Path, overwrite: bool, last: str) -> None:
    """Moves the content of the folder `new` into `target`.

    Args:
        target: A folder.
        new: A folder in a stage on the same disk.
        overwrite: Whether an earlier export's files are replaced.
        last: File that is taken away first and comes last: without it, `target` is no
            artefact.

    Raises:
        InputError: If a name is taken; nothing has changed then.
        OSError: If the system refuses to move a file; likewise.
    """
    replaced = new.parent / "replaced"
    replaced.mkdir()
    with contextlib.ExitStack() as undo:
        if overwrite:
            order = sorted(os.listdir(target), key=lambda name: name != last)
            for name in order:
                if is_written(name, last):
                    _put_away(target / name, replaced / name, undo)
        for name in sorted(os.listdir(new), key=lambda name: name == last):
            _publish(new / name, target / name, undo)
        undo.pop_all()


def publish_files(
    moves: Sequence[tuple[Path, Path]], overwrite: bool, empty: EmptyFiles
) -> None:
    """Moves an artefact's file, and those beside it, to their places.

    Args:
        moves: Each new file with its place. The first lies on the disk of its place.
        overwrite: Whether earlier files are replaced.
        empty: Files of `empty_files` that are replaced in any case, as long as they
            are empty.

    Raises:
        InputError: If a name is taken; nothing has changed then.
        OSError: If the system refuses to move a file; likewise.
    """
    first, *others = moves
    kept = []
    with contextlib.ExitStack() as undo:
        if overwrite:
            # A file beside the artefact describes it, so it must not describe the new
            # one, not even for a moment.
            for _, place in others:
                if place.exists():
                    kept.append(_put_away(place, temporary_path(place), undo))
            os.replace(*first)
        else:
            others = [first, *others]
        for new, place in others:
            if place in empty and _identity(place) == empty[place]:
                kept.append(_put_away(place, temporary_path(place), undo))
                if kept[-1].stat().st_size:
                    raise _taken_since(place)
            _publish(new, place, undo)
        undo.pop_all()
    for path in kept:
        path.unlink()


def _put_away(place: Path, kept: Path, undo: contextlib.ExitStack) -> Path:
    os.rename(place, kept)
    undo.callback(_move, kept, place)
    return kept


def _publish(new: Path, place: Path, undo: contextlib.ExitStack) -> None:
    try:
        _move(new, place)
    except OSError as error:
        if error.errno in _TAKEN:
            raise _taken_since(place) from error
        raise
    undo.callback(_move, place, new)


def _move(new: Path, place: Path) -> None:
    """Moves a file or folder to a name that nobody has.

    Raises:
        OSError: If the name is taken, with an error number of `_TAKEN`.
    """
    if new.is_dir():
        os.rename(new, place)
        return
    try:
        os.link(new, place)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _copy(new, place)
    os.unlink(new)


def _copy(new: Path, place: Path) -> None:
    """Copies a file to a name that nobody has, where there are no hard links."""
    with place.open("xb") as file:
        try:
            with new.open("rb") as content:
                shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            place.unlink()
            raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _taken_since(place: Path) -> InputError:
    return taken(place, ", and did not when the export began")
