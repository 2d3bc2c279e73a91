"""Text files that are there as a whole, or as before."""

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
