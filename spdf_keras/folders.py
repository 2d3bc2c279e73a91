"""Output folders: a mark says what kind of folder it is, a lock who writes to it.

A command writes only into a folder that is new, empty or marked as its own kind, and
removes only files that it has named. All other files of a folder stay.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from spdf_keras.errors import InputError
from spdf_keras.files import is_temporary, replace_file
from spdf_keras.locks import lock

MARK, LOCK = ".spdf_keras.json", ".spdf_keras.lock"

# File systems, repositories and file managers put these into folders that are empty to
# a user. They are never touched.
_NOTHING = frozenset(
    ("lost+found", ".gitkeep", ".gitignore", ".DS_Store", "Thumbs.db", "desktop.ini")
)


@contextlib.contextmanager
def claim(
    folder: str | Path, kind: str, known: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """Holds an output folder while the block writes into it.

    A missing folder is made, with its parents. If the block ends without a file in
    the folder, the folders that were made are removed again.

    Args:
        folder: The folder.
        kind: Kind of its content, such as `run`; the mark records it.
        known: Tells whether a folder without a mark is of this kind, as a folder of
            an earlier version is.

    Yields:
        The folder.

    Raises:
        InputError: If it is a file or holds files that this software has not written
            as this kind, before anything is written; or if another process holds it.
    """
    folder = Path(folder)
    _check(folder, kind, known)
    made = make_folder(folder)
    try:
        with lock(folder / LOCK, f"The folder '{folder}'"):
            _check(folder, kind, known)  # the previous owner may have written the mark
            mark = folder / MARK
            if not mark.exists():
                about = {"written_by": "spdf_keras", "kind": kind}
                replace_file(mark, json.dumps(about) + "\n")
            _tidy(folder)
            try:
                yield folder
            finally:
                if set(os.listdir(folder)) <= {MARK, LOCK} | _NOTHING:
                    mark.unlink(missing_ok=True)
    finally:
        remove_empty(made)


@contextlib.contextmanager
def share(
    folder: str | Path, names: Iterable[str], is_ours: Callable[[Path], bool]
) -> Iterator[Path]:
    """Holds a folder that may contain a user's files, to write some beside them.

    Args:
        folder: The folder; it is made, and removed again if nothing is written.
        names: Names of the files that will be written.
        is_ours: Tells whether a file of one of these names came from an earlier call.

    Raises:
        InputError: If a file of such a name did not come from an earlier call, before
            anything is written; or if another process holds the folder.
    """
    folder = Path(folder)
    check_is_folder(folder)
    for name in names:
        path = folder / name
        if os.path.lexists(path) and not is_ours(path):
            raise InputError(
                f"'{path}' is in the way: spdf-keras writes a file of this name, and "
                "has not written this one. Move it away, or choose another folder."
            )
    made = make_folder(folder)
    try:
        with lock(folder / LOCK, f"The folder '{folder}'"):
            yield folder
    finally:
        remove_empty(made)


def kind_of(folder: Path) -> str | None:
    """Returns the kind in a folder's mark; None without a readable mark."""
    try:
        mark = json.loads((folder / MARK).read_text("utf-8"))
        return str(mark["kind"]) if mark["written_by"] == "spdf_keras" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_empty(folder: Path) -> bool:
    """Whether a folder contains no file of a user."""
    return not _foreign(folder)


def is_nothing(name: str) -> bool:
    """Whether a folder with only a file of this name is empty to a user."""
    return name in {LOCK, *_NOTHING} or is_temporary(name)


def _foreign(folder: Path) -> list[str]:
    return [name for name in sorted(os.listdir(folder)) if not is_nothing(name)]


def _check(folder: Path, kind: str, known: Callable[[Path], bool]) -> None:
    if not folder.exists():
        if folder.is_symlink():
            raise InputError(
                f"The folder '{folder}' is a link to a place that does not exist. Make "
                "that place, or choose another folder."
            )
        return
    check_is_folder(folder)
    found = kind_of(folder)
    if found == kind:
        return
    names = _foreign(folder)
    if found is not None:
        raise InputError(
            f"The folder '{folder}' is in use: choose another. It holds a {found}, "
            f"and this command writes a {kind}."
        )
    if names and not known(folder):
        raise InputError(
            f"The folder '{folder}' is in use: choose another. It holds '{names[0]}', "
            f"which spdf-keras has not written as part of a {kind}."
        )


def check_is_folder(path: Path) -> None:
    """Refuses a file where an output folder was meant.

    Raises:
        InputError: If it is a file.
    """
    if path.exists() and not path.is_dir():
        raise InputError(
            f"`out` must name a folder. Received: '{path}', which is a file. Choose "
            "another name."
        )


def make_folder(folder: Path) -> list[Path]:
    """Makes a folder and its parents; returns the made folders, the innermost first."""
    missing = [folder, *folder.parents]
    missing = [path for path in missing if not path.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process was faster
                path.mkdir()
                made.insert(0, path)
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes the empty ones of `folders`, which `make_folder` returned."""
    for folder in folders:
        with contextlib.suppress(OSError):  # the folder is not empty
            folder.rmdir()


def _tidy(folder: Path) -> None:
    """Removes the temporary files that a killed process left."""
    for name in os.listdir(folder):
        if is_temporary(name):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
