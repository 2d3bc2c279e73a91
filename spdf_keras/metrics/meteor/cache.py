"""Keeps arrays that take long to build in the user's cache folder."""

import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spdf_keras.files import cache_folder, replacing

Array = NDArray[np.uint64]


def cached_array(name: str, build: Callable[[], Array]) -> Array:
    """Reads an array from the cache, or builds and stores it.

    The file is written atomically and ends in its checksum: a damaged one is built
    again. If the folder cannot be written, the array is built each time.

    Args:
        name: File name; it must change whenever the content does.
        build: Builds the array.
    """
    # There may be no home folder; without a cache, only time is lost.
    with suppress(OSError, RuntimeError, ValueError):
        if (kept := _read(cache_folder() / name)) is not None:
            return kept
    array = build()
    with suppress(OSError, RuntimeError):
        _write(cache_folder() / name, array)
    return array


def _read(file: Path) -> Array | None:
    """Maps a file into memory; raises `ValueError` if it is cut within a number."""
    array = np.memmap(file, "<u8", mode="r")
    is_intact = len(array) > 1 and _checksum(array[:-1]) == array[-1]
    return array[:-1] if is_intact else None


def _write(file: Path, array: Array) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, "wb") as stream:
        stream.write(array.astype("<u8").data)
        stream.write(_checksum(array).to_bytes(8, "little"))


def _checksum(array: Array) -> int:
    return zlib.crc32(array.astype("<u8", copy=False).data)
