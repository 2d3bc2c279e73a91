"""Fetches public files: each appears under its name only complete and checked.

A download goes to a hidden file beside its target, whose name holds the checksum that
it must get: a later call finds it there and goes on with it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from spdf_keras.data.public.collections import COLLECTIONS
from spdf_keras.data.public.download import Download, Progress, Source, not_written
from spdf_keras.data.public.public_file import PublicFile
from spdf_keras.errors import InputError
from spdf_keras.files import temporary_path
from spdf_keras.folders import LOCK, make_folder, remove_empty
from spdf_keras.locks import lock


def fetch(
    name: str,
    folder: str | Path,
    source: Source | None = None,
    progress: Progress = lambda name, done, total: None,
) -> dict[Path, bool]:
    """Downloads the files of a collection that are not there yet.

    Args:
        name: A key of `COLLECTIONS`.
        folder: Where the files go, each to its own `PublicFile.name`.
        source: Where they come from; by default, their own addresses.
        progress: Gets a file's name, the bytes that are there, and all its bytes.

    Returns:
        For each file, whether it was downloaded; False if it was there.

    Raises:
        InputError: If a file cannot be downloaded or is not the right one, the
            collection has none to download, or another process fetches it; the
            message is one sentence. No file changes then, except hidden temporary
            ones.
    """
    if name not in COLLECTIONS:
        known = ", ".join(COLLECTIONS)
        raise InputError(f"Unknown collection '{name}'. Known here: {known}.")
    collection = COLLECTIONS[name]
    if not collection.files:
        raise InputError(collection.elsewhere)
    return fetch_files(collection.files, folder, source, progress)


def fetch_files(
    files: Sequence[PublicFile],
    folder: str | Path,
    source: Source | None = None,
    progress: Progress = lambda name, done, total: None,
) -> dict[Path, bool]:
    """Downloads files that are not there yet, as `fetch` does."""
    source = source or Source()
    targets = {Path(folder) / file.name: file for file in files}
    missing = {target.parent for target in targets if not target.exists()}
    with _holding(missing):
        return {
            target: _fetch_file(file, target, source, progress)
            for target, file in targets.items()
        }


@contextmanager
def _holding(folders: Iterable[Path]) -> Iterator[None]:
    """Keeps other processes from fetching into folders; makes those that are missing.

    Folders that stay empty are removed.
    """
    with ExitStack() as stack:
        for folder in sorted(folders):
            try:
                stack.callback(remove_empty, make_folder(folder))
                stack.enter_context(lock(folder / LOCK, f"The folder '{folder}'"))
            except OSError as error:
                raise not_written(folder, error) from error
        yield


def _fetch_file(
    file: PublicFile, target: Path, source: Source, progress: Progress
) -> bool:
    if target.exists():
        if target.is_file() and file.matches(target):
            progress(file.name, file.size_bytes, file.size_bytes)
            return False
        raise InputError(
            f"'{target}' is there and is not the public file. Move it away to fetch it."
        )
    unfinished = temporary_path(target, file.git_blob[:16])
    download = Download(file, source, unfinished, progress)
    was_resumed = download.run()
    if was_resumed and not file.matches(unfinished):  # its beginning may be at fault
        unfinished.unlink()
        download.run()
    if not file.matches(unfinished):
        unfinished.unlink()
        raise InputError(
            f"'{download.url}' is not the file that it should be: its checksum is "
            "another one."
        )
    os.replace(unfinished, target)
    return True
