"""A sparse matrix by rows, as TFLite stores it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class CSR:
    """A matrix without its zeros.

    Attributes:
        shape: `(rows, columns)` of the matrix.
        segments: `(rows + 1,)`; the non-zeros of row `i` are
            `segments[i]:segments[i + 1]`.
        indices: `(non_zeros,)`, the column of each non-zero.
        values: `(non_zeros,)`, in the matrix's dtype.
    """

    shape: tuple[int, int]
    segments: NDArray[Any]
    indices: NDArray[Any]
    values: NDArray[Any]

    @classmethod
    def encode(cls, dense: NDArray[Any]) -> "CSR":
        """Encodes a matrix `(rows, columns)`, with the narrowest index types.

        Entries whose bits are all zero are left out; -0.0 is stored, so that `decode`
        gives every bit back.
        """
        rows, columns = np.nonzero(dense.view(f"u{dense.dtype.itemsize}"))
        counts = np.bincount(rows, minlength=dense.shape[0])
        return cls(
            (dense.shape[0], dense.shape[1]),
            _narrow(np.concatenate([[0], np.cumsum(counts)]), len(rows)),
            _narrow(columns, dense.shape[1] - 1),
            dense[rows, columns],
        )

    def decode(self) -> NDArray[Any]:
        """Returns the matrix, `(rows, columns)`."""
        dense = np.zeros(self.shape, self.values.dtype)
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.segments.astype(int)))
        dense[rows, self.indices] = self.values
        return dense

    @property
    def size_bytes(self) -> int:
        """Bytes of the three arrays."""
        return self.segments.nbytes + self.indices.nbytes + self.values.nbytes


def _narrow(values: NDArray[Any], largest: int) -> NDArray[Any]:
    dtype = "uint8" if largest < 2**8 else "uint16" if largest < 2**16 else "int32"
    return values.astype(dtype)
