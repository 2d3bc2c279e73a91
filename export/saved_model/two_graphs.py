"""A SavedModel with one graph or two: plain, and skipping zeros on CPUs.

`saved_model.pb` may hold several graphs, told apart by their tags, over one file of
variables. The plain graph has the tag `serve`, by which TensorFlow Serving and the
converters find it. The other has `spdf` too, and needs the operations of this package;
nobody who does not ask for its tags needs them.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from spdf_keras.errors import InputError
from spdf_keras.export.graphs import (
    MIN_SPARSITY,
    FoldedKernels,
    used_variables,
    write_signatures,
)
from spdf_keras.export.runtimes import (
    SAVED_MODEL_RUNTIMES,
    SAVED_MODEL_SKIPPING_RUNTIMES,
    Runtime,
)
from spdf_keras.model.decoding.passes import Kernels
from spdf_keras.native.tensorflow.operations import load_operations

# The file by which a folder is known as a SavedModel.
FOLDER_WITH = "saved_model.pb"

_PLAIN, _SKIPPING = ("serve",), ("serve", "spdf")
_FINGERPRINT = "fingerprint.pb"

Checked = TypeVar("Checked")
# Traces all signatures of a graph, whose kernels the argument returns.
Tracer = Callable[[Callable[[], Kernels]], dict[str, Any]]


class Graphs:
    """The graphs of a SavedModel.

    Attributes:
        kernels: The kernels of both.

    Args:
        kernels: The kernels of both.
        skip_zeros: `cpu` adds the second graph; None does not.

    Raises:
        InputError: If `skip_zeros` is another value, or too few weights are zero.
        NotBuiltError: If the operations cannot be compiled.
    """

    def __init__(self, kernels: FoldedKernels, skip_zeros: str | None) -> None:
        self.kernels = kernels
        self._two = skip_zeros is not None
        if not self._two:
            return
        if skip_zeros != "cpu":
            raise InputError(
                "`skip_zeros` must be cpu, for a second graph that skips zeros there, "
                f"or None. Received: skip_zeros={skip_zeros}."
            )
        if not kernels.num_packed:
            raise InputError(
                f"`skip_zeros` needs a kernel with {MIN_SPARSITY:.0%} zeros. Received: "
                f"a model with {kernels.sparsity:.0%} in all. Leave it out."
            )
        load_operations()

    def write(self, folder: Path, tracer: Tracer, *tracked: tf.Module) -> None:
        """Writes the folder.

        Args:
            folder: Folder to write.
            tracer: Traces the signatures of a graph.
            *tracked: Modules whose tables the signatures use.
        """
        plain = tracer(self.kernels.tensors)
        skipping = tracer(self.kernels.packed) if self._two else {}
        # Variables are stored under their places in this list. Both graphs have the
        # same list, so each finds its variables in the other's file.
        variables = used_variables([*plain.values(), *skipping.values()])
        write_signatures(plain, folder, *tracked, variables=variables)
        if skipping:
            other = folder.with_name(f"{folder.name}.skipping")
            write_signatures(skipping, other, *tracked, variables=variables)
            _add_graph(folder, other)
            shutil.rmtree(other)

    def check(self, folder: Path, check: Callable[[Any], Checked]) -> list[Checked]:
        """Loads each graph as its users do, one after the other, and checks it.

        Args:
            folder: Folder that `write` wrote.
            check: Takes the signatures of a graph.

        Returns:
            The results of `check`.
        """
        return [
            check(tf.saved_model.load(str(folder), tags=list(tags)).signatures)
            for tags in (_PLAIN, _SKIPPING)[: 1 + self._two]
        ]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the card."""
        if not self._two:
            return ()
        return (
            f"It has two graphs over the same variables; name one when you load it: "
            f"`tags={list(_PLAIN)}` is plain, and `tags={list(_SKIPPING)}` skips the "
            f"zeros of {self.kernels.num_packed} kernels on CPUs, with the operations "
            "of this package. Both ran, and the error is the larger one.",
        )

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """Runtimes for the card."""
        return SAVED_MODEL_SKIPPING_RUNTIMES if self._two else SAVED_MODEL_RUNTIMES


def _add_graph(folder: Path, other: Path) -> None:
    """Adds the graph of another SavedModel, which reads the same variables."""
    content, added = _read(folder), _read(other)
    graph = content.meta_graphs.add()
    graph.CopyFrom(added.meta_graphs[0])
    graph.meta_info_def.tags[:] = _SKIPPING
    (folder / FOLDER_WITH).write_bytes(content.SerializeToString())
    # It holds a checksum of the file with one graph. TensorFlow makes it in C++ alone,
    # and reads a folder without it alike.
    (folder / _FINGERPRINT).unlink(missing_ok=True)


def _read(folder: Path) -> saved_model_pb2.SavedModel:
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((folder / FOLDER_WITH).read_bytes())
    return content
