"""The files under a folder, and counts of those that are left out."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from spdf_keras.errors import InputError


class LeftOut(dict[str, dict[str, Any]]):
    """For each reason, how many files were left out and which was the first."""

    def add(self, reason: str, path: Path) -> None:
        """Counts a file or folder."""
        counted = self.setdefault(reason, {"count": 0, "first": str(path)})
        counted["count"] += 1


def entries_of(folder: Path) -> list[Path]:
    """The files and folders in a folder, sorted.

    Raises:
        InputError: If the folder cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"Cannot read '{folder}': {error.strerror}.") from error


def files_under(
    folder: Path,
    left_out: LeftOut,
    is_outside: Callable[[Path], bool] = lambda path: False,
) -> Iterable[Path]:
    """The files under a folder, sorted by path; links are followed.

    Hidden files and folders (`._x.jsonl`, `.git`, `.ipynb_checkpoints`), links that
    lead nowhere and links to files under the folder are left out and counted; a hidden
    folder counts as one. The folder itself may be hidden: it was asked for.

    Args:
        folder: Where to look.
        left_out: Counts what is left out.
        is_outside: Whether a file or folder is no part of the input; it is not
            counted then.

    Raises:
        InputError: If a folder cannot be read.
    """
    files: list[Path] = []
    links: list[Path] = []
    seen = {os.path.realpath(folder)}

    def visit(inner: Path) -> None:
        for path in entries_of(inner):
            if is_outside(path):
                continue
            if path.name.startswith("."):
                left_out.add("hidden", path)
            elif path.is_symlink():
                links.append(path)
            elif path.is_dir():
                if (real := os.path.realpath(path)) not in seen:
                    seen.add(real)
                    visit(path)
            elif path.is_file():
                seen.add(os.path.realpath(path))
                files.append(path)

    visit(folder)
    while links:  # last, when all files that they may lead to are known
        path = links.pop(0)
        real = os.path.realpath(path)
        if not path.exists():
            left_out.add("links that lead nowhere", path)
        elif real in seen:
            left_out.add("links to what is read anyway", path)
        elif path.is_dir():
            seen.add(real)
            visit(path)
        else:
            seen.add(real)
            files.append(path)
    return sorted(files)
