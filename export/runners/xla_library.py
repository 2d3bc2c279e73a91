"""Loads the library that skips zeros in XLA programs on CPUs, and packs kernels for it.

`run_xla.py` uses this file, which must lie beside it. It needs JAX and NumPy, nothing
else. `python -m spdf_keras.native.build --target xla` compiles the library.
"""

import ctypes
import os
import struct
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING or __package__:
    from .xla_artefact import Artefact, RunError
else:  # the files lie in one folder, in no package
    from xla_artefact import Artefact, RunError

_CALLS = ("spdf_linear", "spdf_masked_linear", "spdf_masked_gradients")

# A process registers the calls once, so it can use one library.
_open_libraries: dict[str, "SkippingLibrary"] = {}


class Packed:
    """A kernel or a mask that the library holds until this object is gone.

    Attributes:
        id: The number by which a program names it.
        size_bytes: Its memory.
    """

    def __init__(self, library: ctypes.CDLL, identifier: int) -> None:
        self.id = jnp.int32(identifier)
        self.size_bytes = int(library.spdf_xla_bytes(identifier))
        weakref.finalize(self, library.spdf_xla_remove, identifier)


class SkippingLibrary:
    """The library, with its calls registered in this process; see `open`."""

    def __init__(self, path: str) -> None:
        _check_file(path)
        try:
            library = ctypes.CDLL(path)
            library.spdf_xla_interface.restype = ctypes.c_int32
            library.spdf_xla_bytes.restype = ctypes.c_int64
            self.interface = int(library.spdf_xla_interface())
            self._calls = [getattr(library, name) for name in _CALLS]
        except (OSError, AttributeError) as error:
            raise RunError(f"Cannot load the library '{path}': {error}.") from error
        self.path, self._library = path, library

    @classmethod
    def open(cls, path: str | Path, interface: int) -> "SkippingLibrary":
        """Loads a library, once in a process.

        Args:
            path: The file.
            interface: Number of the interface that the programs need.

        Raises:
            RunError: If the file is no such library or has another interface, or
                the process already uses another library.
        """
        path = os.path.realpath(path)
        library = _open_libraries.get(path) or cls(path)
        if library.interface != interface:
            raise RunError(
                f"The artefact needs a library of interface {interface}. Received: "
                f"'{path}' of interface {library.interface}; compile it by the version "
                "of spdf_keras that wrote the artefact."
            )
        if path not in _open_libraries:
            library._register()
            _open_libraries[path] = library
        return library

    def _register(self) -> None:
        if _open_libraries:
            raise RunError(
                f"A process can use one library. Received: '{self.path}', while "
                f"'{next(iter(_open_libraries))}' is in use."
            )
        try:
            for name, call in zip(_CALLS, self._calls, strict=True):
                capsule = jax.ffi.pycapsule(call)
                jax.ffi.register_ffi_target(name, capsule, platform="cpu")
        except (AttributeError, RuntimeError, ValueError) as error:
            raise RunError(
                f"JAX {jax.__version__} does not take the calls of '{self.path}': "
                f"{error}."
            ) from error

    def pack(self, name: str, bits: Any, values: Any, shape: list[int]) -> Packed:
        """Packs a kernel from one bit per entry and its kept values in order.

        Args:
            name: Name of the kernel, for messages.
            bits: uint8, the highest bit of a byte first.
            values: float32.
            shape: `[in_features, out_features]`.
        """
        bits, values = _plain(bits, np.uint8), _plain(values, np.float32)
        return self._add(name, shape, "spdf_xla_pack", bits, values)

    def pack_dense(self, name: str, kernel: Any) -> Packed:
        """Packs the entries of a dense kernel that are not 0; otherwise as `pack`."""
        kernel = _plain(kernel, np.float32)
        return self._add(name, list(kernel.shape), "spdf_xla_pack_dense", kernel)

    def mask(self, name: str, bits: Any, shape: list[int]) -> Packed:
        """Prepares the mask of a kernel for training; arguments as of `pack`."""
        bits = _plain(bits, np.uint8)
        return self._add(name, shape, "spdf_xla_mask", bits)

    def _add(self, name: str, shape: list[int], function: str, *arrays: Any) -> Packed:
        if len(shape) != 2:
            raise RunError(
                f"A packed kernel must have two axes. Received: '{name}' of shape "
                f"{shape}."
            )
        parts: list[Any] = []
        for array in arrays:
            parts.append(ctypes.c_void_p(array.ctypes.data))
            if function != "spdf_xla_pack_dense":  # the shape gives the size
                parts.append(ctypes.c_int64(array.size))
        sizes = [ctypes.c_int64(size) for size in (*shape, _num_threads())]
        reason = ctypes.c_char_p()
        call = getattr(self._library, function)
        identifier = call(*parts, *sizes, ctypes.byref(reason))
        if identifier <= 0:
            why = (reason.value or b"").decode("utf-8", "replace")
            raise RunError(f"'{name}' of shape {shape} cannot be packed: {why}")
        return Packed(self._library, identifier)


class PackedKernels:
    """The kernels and masks of an artefact that the library holds, by argument.

    Args:
        artefact: The artefact.
        library: The library.
    """

    def __init__(self, artefact: Artefact, library: SkippingLibrary) -> None:
        self._artefact, self._library = artefact, library
        # Each with the dense array that has the same values, where there is one.
        self._packed: dict[str, tuple[Packed, Any]] = {}

    def pack(self, arguments: dict[str, dict[str, Any]], state: dict[str, Any]) -> None:
        """Packs what the arguments name, straight from the file's bits and values.

        Args:
            arguments: Descriptions of arguments by name.
            state: The arrays of the model by name.
        """
        for name, argument in arguments.items():
            if argument["role"] in ("packed", "structure"):
                path = name.partition("/")[2]
                self._packed[name] = (
                    self._of_file(argument["role"], path),
                    state.get(path),
                )

    def id(self, name: str, weight: Any) -> Any:
        """Returns the id of an argument; a kernel that has changed is packed anew.

        Args:
            name: Name of the argument.
            weight: The dense kernel of now; None if there is none.
        """
        packed, source = self._packed[name]
        if weight is not source and name.startswith("packed/"):
            packed = self._library.pack_dense(name, np.asarray(weight))
            self._packed[name] = packed, weight
        return packed.id

    @property
    def size_bytes(self) -> int:
        """Memory of all kernels and masks."""
        return sum(packed.size_bytes for packed, _ in self._packed.values())

    def _of_file(self, role: str, path: str) -> Packed:
        shape = self._artefact.about["skipping"]["kernels"].get(path, [])
        if role == "structure":
            return self._library.mask(path, self._artefact.mask_bits(path), shape)
        bits, values = (
            self._artefact.tensor(f"{path}.{part}") for part in ("bits", "values")
        )
        return self._library.pack(path, bits, values, shape)


def _check_file(path: str) -> None:
    """Refuses a file that is cut short: the loader of the system would crash."""
    try:
        with open(path, "rb") as file:
            head, size = file.read(64), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise RunError(
            f"Cannot load the library '{path}': {error.strerror}."
        ) from error
    if head[:6] == b"\x7fELF\x02\x01" and len(head) == 64:
        (sections,) = struct.unpack_from("<Q", head, 40)
        entry_bytes, entries = struct.unpack_from("<HH", head, 58)
        if sections + entry_bytes * entries <= size:
            return
    elif size >= 64 and head[:4] != b"\x7fELF":
        return  # a library of another system, whose loader says what is wrong
    raise RunError(f"The library '{path}' is cut short.")


def _plain(array: Any, dtype: Any) -> Any:
    """Returns an array whose memory can be read from C."""
    array = np.asarray(array)
    if array.dtype != dtype:
        raise RunError(
            f"A packed kernel must be of {np.dtype(dtype)}. Received: {array.dtype}."
        )
    return np.require(array, requirements=["C", "A"])


def _num_threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
