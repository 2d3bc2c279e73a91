"""The card of an export: its format, its size, and the error of its logits."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from spdf_keras.errors import ExportError
from spdf_keras.export.runtimes import Runtime
from spdf_keras.files import replace_file

# Runtimes sum in other orders: the largest error that was seen is 2e-5 of GPT-2 Small's
# largest logit. A wrong weight gives 1e-3 and above.
MAX_RELATIVE_ERROR = 1e-4

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class ExportCard:
    """One exported artefact, as measured when it was written.

    `dataclasses.asdict` gives a dict of it.

    Attributes:
        format: `saved_model`, `tflite` or `xla`, with `_sparse` and the quantization
            where it has them, as in `tflite_sparse_fp16`.
        path: Path of the file or folder.
        size_bytes: Size of the file, or of all files in the folder.
        dense_size_bytes: Size with every zero stored.
        bound_size_bytes: Size with zeros in the shortest code; see
            `information_bound`.
        sparsity: Fraction of zeros in the six matrices of all blocks, counted.
        max_abs_error: Largest difference from the Keras model's logits, on
            random prompts, in the artefact's own runtime; None if it was not run.
        max_abs_logit: Largest of the Keras model's logits, to judge the error by.
        vocabulary_size: Number of the model's tokens.
        sha256: Checksum of a single file; a folder holds those of its files.
        notes: Sentences about precision, loading and encoding.
        runtimes: For each known runtime, whether it skips the zeros.
    """

    format: str
    path: str
    size_bytes: int
    dense_size_bytes: int
    bound_size_bytes: int
    sparsity: float
    max_abs_error: float | None
    max_abs_logit: float | None
    vocabulary_size: int
    sha256: str = ""
    notes: tuple[str, ...] = ()
    runtimes: tuple[Runtime, ...] = ()

    columns: ClassVar[tuple[str, ...]] = (
        *("format", "size (MB)", "of dense", "of the bound", "sparsity"),
        *("max error", "relative error", "path"),
    )

    @property
    def relative_error(self) -> float | None:
        """`max_abs_error` as a fraction of the largest logit."""
        if self.max_abs_error is None:
            return None
        return self.max_abs_error / self.max_abs_logit if self.max_abs_logit else 0.0

    def row(self) -> tuple[str, ...]:
        """The card as a line of a table with the header `columns`."""

        def number(value: float | None) -> str:
            return "not run" if value is None else f"{value:.1e}"

        return (
            self.format,
            f"{self.size_bytes / 1e6:.2f}",
            f"{self.size_bytes / self.dense_size_bytes:.2f}x",
            f"{self.size_bytes / self.bound_size_bytes:.2f}x",
            f"{self.sparsity:.2%}",
            number(self.max_abs_error),
            number(self.relative_error),
            self.path,
        )

    def to_json(self) -> str:
        """The card as one line of JSON."""
        return json.dumps(
            {**dataclasses.asdict(self), "relative_error": self.relative_error}
        )

    def save(self, path: Path) -> None:
        """Writes the card as a JSON file."""
        replace_file(path, self.to_json() + "\n")


def card_path(artefact: str | Path) -> Path:
    """Returns the path of an artefact's card: in its folder, or beside its file."""
    artefact = Path(artefact)
    if artefact.is_dir():
        return artefact / "card.json"
    return artefact.with_name(f"{artefact.name}.card.json")


def require_finite_logits(logits: Logits) -> None:
    """Refuses logits of a model that no artefact can be compared with.

    Raises:
        ExportError: If one of them is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise ExportError(
            "The model's logits must be finite to be exported. Received: a model whose "
            "logits are not, as its weights are too large. Nothing was written."
        )


def logit_error(
    pairs: Iterable[tuple[Logits, Logits]], allowed: float = MAX_RELATIVE_ERROR
) -> tuple[float, float]:
    """Compares logits of an artefact with the model's.

    Args:
        pairs: `(expected, received)`, of equal shapes.
        allowed: Largest difference, as a fraction of the largest logit.

    Returns:
        The largest absolute difference, and the largest expected logit.

    Raises:
        ExportError: If they differ by more than is allowed, or are not finite.
    """
    error = scale = 0.0
    for expected, received in pairs:
        if expected.shape != received.shape:
            raise ExportError(
                f"The exported model's logits have shape {received.shape}, the "
                f"Keras model's {expected.shape}. Nothing was written."
            )
        require_finite_logits(expected)
        # `np.maximum`, unlike `max`, keeps a NaN.
        error = float(np.maximum(error, np.max(np.abs(expected - received))))
        scale = float(np.maximum(scale, np.max(np.abs(expected))))
    if not error <= allowed * scale:
        raise ExportError(
            "The exported model's logits differ from the Keras model's by "
            f"{error:.2g}. Allowed is {allowed:g} of the largest logit, "
            f"{scale:.2g}. Nothing was written."
        )
    return error, scale
