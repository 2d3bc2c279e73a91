"""What was exported, how large it is, and how far its logits are off."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from spdf_keras.errors import ExportError

# Orders of summation differ between runtimes: 2e-5 of GPT-2 Small's largest
# logit is the most that was seen, and a wrong weight shows at 1e-3 and above.
MAX_RELATIVE_ERROR = 1e-4

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class ExportCard:
    """One exported artefact, as measured when it was written.

    `dataclasses.asdict` gives a dict of it.

    Attributes:
        format: `saved_model`, `tflite` or `tflite_sparse`.
        path: Where it lies.
        size_bytes: Size of the file, or of all files in the folder.
        dense_size_bytes: Size with every zero stored; `size_bytes` itself unless
            the format leaves zeros out.
        sparsity: Fraction of zeros in the six matrices of all blocks, counted.
        max_abs_error: Largest difference from the Keras model's logits, on
            random prompts, in the artefact's own runtime.
        max_abs_logit: Largest logit among them, to judge the error by.
        notes: What to expect of it, one sentence each.
    """

    format: str
    path: str
    size_bytes: int
    dense_size_bytes: int
    sparsity: float
    max_abs_error: float
    max_abs_logit: float
    notes: tuple[str, ...] = ()

    columns: ClassVar[tuple[str, ...]] = (
        *("format", "size (MB)", "of dense", "sparsity", "max error"),
        *("relative error", "path"),
    )

    @property
    def relative_error(self) -> float:
        """`max_abs_error` as a fraction of the largest logit."""
        return self.max_abs_error / self.max_abs_logit if self.max_abs_logit else 0.0

    def row(self) -> tuple[str, ...]:
        """The card as a line of a table with the header `columns`."""
        return (
            self.format,
            f"{self.size_bytes / 1e6:.2f}",
            f"{self.size_bytes / self.dense_size_bytes:.2f}x",
            f"{self.sparsity:.2%}",
            f"{self.max_abs_error:.1e}",
            f"{self.relative_error:.1e}",
            self.path,
        )

    def to_json(self) -> str:
        """The card as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))


def logit_error(pairs: Iterable[tuple[Logits, Logits]]) -> tuple[float, float]:
    """Compares logits of an artefact with the model's.

    Args:
        pairs: `(expected, received)`, of equal shapes.

    Returns:
        The largest absolute difference, and the largest expected logit.

    Raises:
        ExportError: If they differ by more than `MAX_RELATIVE_ERROR` of the
            largest logit, or are not finite.
    """
    error = scale = 0.0
    for expected, received in pairs:
        if expected.shape != received.shape:
            raise ExportError(
                f"The exported model's logits have shape {received.shape}, the "
                f"Keras model's {expected.shape}. Nothing was written."
            )
        # `np.maximum`, unlike `max`, keeps a NaN from either side.
        error = float(np.maximum(error, np.max(np.abs(expected - received))))
        scale = float(np.maximum(scale, np.max(np.abs(expected))))
    if not error <= MAX_RELATIVE_ERROR * scale < np.inf:
        raise ExportError(
            "The exported model's logits differ from the Keras model's by "
            f"{error:.2g}. Allowed is {MAX_RELATIVE_ERROR:g} of the largest logit, "
            f"{scale:.2g}. Nothing was written."
        )
    return error, scale
