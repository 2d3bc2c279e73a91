"""From traced functions to a flatbuffer: `.tflite` files and LiteRT-LM bundles."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.export.graphs import write_signatures
from spdf_keras.export.tflite.sharing import share_int8
from spdf_keras.export.tflite.sparse_encoding import SparseReport, sparse_encode

# Bytes of a kernel's entry.
VALUE_BYTES = {"none": 4, "fp16": 2, "int8": 1}
QUANTIZATIONS = tuple(VALUE_BYTES)

_LOADING_NOTE = "Loading takes longer, and memory is at least that of the dense file."
_NOT_ENCODED_NOTE = (
    "No weight had enough zeros to become smaller: this is the dense file."
)
_INT8_NOTES = {
    False: "Kernels and activations are multiplied in int8.",
    True: "Encoded kernels are multiplied in float32, at its speed: the runtime does "
    "not load int8 sparse weights that int8 products read.",
}


@dataclass(frozen=True)
class Encoding:
    """What a finished file stores, for its card.

    Attributes:
        dense_size_bytes: Size of the same file with every zero stored.
        encoded: Whether a weight is stored as CSR.
        notes: Sentences about precision, loading and encoding.
    """

    dense_size_bytes: int
    encoded: bool
    notes: tuple[str, ...]


def check_quantization(quantize: str) -> None:
    """Refuses what is not one of `QUANTIZATIONS`."""
    if quantize not in QUANTIZATIONS:
        raise InputError(
            f"`quantize` must be one of {', '.join(QUANTIZATIONS)}: of int4, blocks of "
            "zeros do not load, and whole rows lose the model's accuracy. Received: "
            f"quantize={quantize}."
        )


def suffix(sparse: bool, quantize: str) -> str:
    """Returns the end of a format's name, as in `_sparse_fp16`."""
    quantization = f"_{quantize}" if quantize != "none" else ""
    return ("_sparse" if sparse else "") + quantization


def convert(functions: dict[str, Any], quantize: str, stage: Path) -> bytes:
    """Converts functions to a dense file.

    Args:
        functions: The concrete function of each signature by its name.
        quantize: One of `QUANTIZATIONS`.
        stage: A path in a folder of the caller's, which gets an intermediate folder.
    """
    intermediate = stage.with_name(f"{stage.name}.saved_model")
    write_signatures(functions, intermediate)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(intermediate), signature_keys=list(functions)
    )
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    content = bytes(converter.convert())
    return share_int8(content) if quantize == "int8" else content


def write(content: bytes, path: Path, sparse: bool, quantize: str) -> Encoding:
    """Writes a file that `convert` made, its zeros encoded if `sparse`."""
    dense_size_bytes, report = len(content), None
    if sparse:
        content, report = sparse_encode(content)
    path.write_bytes(content)
    encoded = bool(report and report.encoded)
    notes = (_INT8_NOTES[encoded],) if quantize == "int8" else ()
    return Encoding(dense_size_bytes, encoded, (*notes, *_notes(report)))


def _notes(report: SparseReport | None) -> tuple[str, ...]:
    if report is None:
        return ()
    if not report.encoded:
        return (_NOT_ENCODED_NOTE,)
    return (
        _LOADING_NOTE,
        f"{report.encoded} weights are encoded, {report.kept} are dense; the file has "
        f"{report.densify_ops} DENSIFY operators, one per weight and signature.",
    )
