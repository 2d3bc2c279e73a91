"""Arrays that take long to make, kept in the user's cache folder."""

import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Words64 = NDArray[np.uint64]


def cached_array(name: str, build: Callable[[], Words64]) -> Words64:
    """Reads an array from the cache, or builds it and keeps it there.

    The file ends in its checksum, so a damaged or unfinished one is built anew;
    it gets its name when it is whole. Where nothing can be written the array is
    built each time.

    Args:
        name: File name; has to change whenever the content would.
        build: Makes the array.
    """
    file = _folder() / name
    array = _read(file)
    if array is None:
        array = build()
        # A cache that cannot be written costs time, nothing else.
        with suppress(OSError):
            _write(file, array)
    return array


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "spdf_keras"


def _read(file: Path) -> Words64 | None:
    try:
        array = np.memmap(file, "<u8", mode="r")
    except (OSError, ValueError):  # not there; empty or cut inside a number
        return None
    return array[:-1] if zlib.crc32(array[:-1]) == array[-1] else None


def _write(file: Path, array: Words64) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Others may be writing the same file.
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as stream:
            stream.write(array.astype("<u8").tobytes())
            stream.write(zlib.crc32(array.astype("<u8")).to_bytes(8, "little"))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
