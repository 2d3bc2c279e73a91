"""Orders of training data that are a function of a seed alone."""

import hashlib

import numpy as np
from numpy.typing import NDArray


class EpochOrder:
    """The endless stream of shuffled epochs: the number of the sequence at a place."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def sequences(self, first: int, count: int) -> NDArray[np.int64]:
        """The numbers of `count` sequences from place `first` on."""
        parts = []
        while count:
            epoch, offset = divmod(first, self._count)
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch] = shuffled(self._count, f"{self._seed}:{epoch}")
        return self._epochs[epoch]


def shuffled(count: int, key: str) -> NDArray[np.int64]:
    """A permutation of `range(count)` that depends on `key` alone.

    It sorts by the raw stream of Philox, which never changes; NumPy's own shuffle
    may change between releases.
    """
    digest = hashlib.sha256(f"order:{key}".encode()).digest()
    bits = np.frombuffer(digest[:16], np.dtype("<u8")).astype(np.uint64)
    draws = np.random.Philox(key=bits).random_raw(count)
    return np.argsort(draws, kind="stable")
