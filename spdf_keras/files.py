"""Text files that are there as a whole, or as before."""

import os
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Writes UTF-8 text to a file, on the disk before it has its name."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
