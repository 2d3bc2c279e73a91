"""Profiles an exported `.tflite` file by operator; needs ai-edge-litert alone.

    python profile_tflite.py MODEL.tflite --signature decode --runs 20

It prints the runtime's own table: time, calls and share of each kind of operator,
those inside XNNPACK too. Inputs are zeros, which are valid tokens and positions. The
runtime's Python interface has no profiler, so this calls its C interface.
"""

import argparse
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ai_edge_litert

_CPU = 1
_WRITE = 1
_RANKED_TENSOR_TYPE_BYTES = 72
_SUMMARY = "====================================================== Summary"
_OPTIONS = b"runtime_options_string", b"enable_profiling = true\n"


class ProfileError(ValueError):
    """The file cannot be profiled; the message is one sentence."""


class _LiteRt:
    """The runtime's library; every call is checked."""

    def __init__(self) -> None:
        folder = Path(next(iter(ai_edge_litert.__path__)))
        (path, *_) = sorted(folder.glob("libLiteRt.*"))
        self._library = ctypes.CDLL(str(path))

    def __call__(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, f"LiteRt{name}")(*arguments)
        if status:
            raise ProfileError(f"The runtime's {name} has failed with status {status}.")

    def made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """The handle that a call returns through its last argument."""
        handle = ctypes.c_void_p()
        self(name, *arguments, ctypes.byref(handle))
        return handle


def profile(path: str | Path, signature: str = "decode", runs: int = 20) -> str:
    """Runs one signature and returns the runtime's table.

    Args:
        path: The file.
        signature: Which to run.
        runs: Calls that are profiled, after one that warms up.

    Raises:
        ProfileError: If the file cannot be loaded, or has no such signature.
    """
    if not Path(path).is_file():
        raise ProfileError(f"There is no file '{path}'.")
    lite_rt = _LiteRt()
    environment = lite_rt.made("CreateEnvironment", 0, None)
    model = lite_rt.made("CreateModelFromFile", environment, str(path).encode())
    index, found = _signature(lite_rt, model, signature)
    options = lite_rt.made("CreateOptions")
    lite_rt("SetOptionsHardwareAccelerators", options, _CPU)
    name, text = _OPTIONS
    payload = ctypes.create_string_buffer(text)
    release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    opaque = lite_rt.made("CreateOpaqueOptions", name, payload, release)
    lite_rt("AddOpaqueOptions", options, opaque)
    compiled = lite_rt.made("CreateCompiledModel", environment, model, options)
    profiler = lite_rt.made("CompiledModelGetProfiler", compiled)
    buffers = [
        _buffers(lite_rt, environment, compiled, (index, found), kind)
        for kind in ("Input", "Output")
    ]

    def run() -> None:
        sized = (
            item for part in buffers for item in (ctypes.c_size_t(len(part)), part)
        )
        lite_rt("RunCompiledModel", compiled, ctypes.c_size_t(index), *sized)

    run()
    lite_rt("StartProfiler", profiler)
    for _ in range(runs):
        run()
    lite_rt("StopProfiler", profiler)
    summary = ctypes.c_char_p()
    lite_rt("GetProfileSummary", profiler, compiled, ctypes.byref(summary))
    table = (summary.value or b"").decode()
    # Before it stands a line for each of the hundreds of operators.
    return table[max(table.find(_SUMMARY), 0) :]


def _signature(
    lite_rt: _LiteRt, model: ctypes.c_void_p, wanted: str
) -> tuple[int, ctypes.c_void_p]:
    count = ctypes.c_size_t()
    lite_rt("GetNumModelSignatures", model, ctypes.byref(count))
    names = []
    for index in range(count.value):
        signature = lite_rt.made("GetModelSignature", model, ctypes.c_size_t(index))
        key = ctypes.c_char_p()
        lite_rt("GetSignatureKey", signature, ctypes.byref(key))
        names.append((key.value or b"").decode())
        if names[-1] == wanted:
            return index, signature
    raise ProfileError(
        f"The signature must be one of {', '.join(names)}. Received: {wanted}."
    )


def _buffers(
    lite_rt: _LiteRt,
    environment: ctypes.c_void_p,
    compiled: ctypes.c_void_p,
    signature: tuple[int, ctypes.c_void_p],
    kind: str,
) -> Any:
    index, handle = signature
    count = ctypes.c_size_t()
    lite_rt(f"GetNumSignature{kind}s", handle, ctypes.byref(count))
    buffers = (ctypes.c_void_p * count.value)()
    for place in range(count.value):
        number = ctypes.c_size_t(place)
        tensor = lite_rt.made(f"GetSignature{kind}TensorByIndex", handle, number)
        tensor_type = ctypes.create_string_buffer(_RANKED_TENSOR_TYPE_BYTES)
        lite_rt("GetRankedTensorType", tensor, tensor_type)
        needs = lite_rt.made(
            f"GetCompiledModel{kind}BufferRequirements",
            compiled,
            ctypes.c_size_t(index),
            number,
        )
        buffer = lite_rt.made(
            "CreateManagedTensorBufferFromRequirements", environment, tensor_type, needs
        )
        size = ctypes.c_size_t()
        lite_rt("GetTensorBufferPackedSize", buffer, ctypes.byref(size))
        memory = ctypes.c_void_p()
        lite_rt("LockTensorBuffer", buffer, ctypes.byref(memory), _WRITE)
        ctypes.memset(memory, 0, size.value)
        lite_rt("UnlockTensorBuffer", buffer)
        buffers[place] = buffer.value
    return buffers


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the runtime's notes, a line for each sparse weight, off the screen."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Profiles a .tflite file by operator.")
    parser.add_argument("model", help="the .tflite file")
    parser.add_argument("--signature", default="decode")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args(arguments)
    try:
        with _quiet():
            table = profile(options.model, options.signature, options.runs)
        print(table)
    except ProfileError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
