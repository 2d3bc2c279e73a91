"""Files that are there as a whole, or as before."""

import os
from pathlib import Path

# Ending of a file that a kill has kept from getting its name.
UNFINISHED = ".unfinished"


def replace_file(path: Path, text: str) -> None:
    """Writes UTF-8 text to a file, on the disk before it has its name."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def sync_folder(folder: Path) -> None:
    """Waits until a folder's files, and which files it has, are on the disk."""
    for path in (*folder.iterdir(), folder):
        if path.is_file() or path == folder:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
