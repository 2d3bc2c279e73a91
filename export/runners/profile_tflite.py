"""Profiles an exported `.tflite` file by operator; needs ai-edge-litert alone.

    python profile_tflite.py MODEL.tflite --signature decode --runs 20

It prints the runtime's own table: time, calls and share of each kind of operator,
including the operators inside XNNPACK. Inputs are zeros, which are valid tokens and
positions. The runtime's Python interface has no profiler; this calls its C interface.
"""

import argparse
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ai_edge_litert
from ai_edge_litert.interpreter import Interpreter

_CPU = 1
_WRITE = 1
_RANKED_TENSOR_TYPE_BYTES = 72
_SUMMARY = "====================================================== Summary"
_OPTIONS = b"runtime_options_string", b"enable_profiling = true\n"


class ProfileError(ValueError):
    """The file cannot be profiled; the message is one sentence."""


class _LiteRt:
    """The runtime's library, with the status of every call checked."""

    def __init__(self) -> None:
        folder = Path(next(iter(ai_edge_litert.__path__)))
        (path, *_) = sorted(folder.glob("libLiteRt.*"))
        self._library = ctypes.CDLL(str(path))

    def __call__(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, f"LiteRt{name}")(*arguments)
        if status:
            raise ProfileError(f"The runtime's {name} has failed with status {status}.")

    def handle(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Calls a function, and returns the handle that its last argument receives."""
        handle = ctypes.c_void_p()
        self(name, *arguments, ctypes.byref(handle))
        return handle


def profile(path: str | Path, signature: str = "decode", runs: int = 20) -> str:
    """Runs one signature and returns the runtime's table.

    Args:
        path: The file.
        signature: Name of the signature.
        runs: Calls that are profiled, after a call that warms up.

    Raises:
        ProfileError: If the file cannot be loaded, or has no such signature, or `runs`
            is not positive.
    """
    if runs < 1:
        raise ProfileError(f"The runs must be positive. Received: {runs}.")
    if not Path(path).is_file():
        raise ProfileError(f"There is no file '{path}'.")
    _verify(path)
    lite_rt = _LiteRt()
    environment = lite_rt.handle("CreateEnvironment", 0, None)
    model = lite_rt.handle("CreateModelFromFile", environment, str(path).encode())
    index, signature_handle = _signature(lite_rt, model, signature)
    options = lite_rt.handle("CreateOptions")
    lite_rt("SetOptionsHardwareAccelerators", options, _CPU)
    name, text = _OPTIONS
    payload = ctypes.create_string_buffer(text)
    release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    opaque = lite_rt.handle("CreateOpaqueOptions", name, payload, release)
    lite_rt("AddOpaqueOptions", options, opaque)
    compiled = lite_rt.handle("CreateCompiledModel", environment, model, options)
    profiler = lite_rt.handle("CompiledModelGetProfiler", compiled)
    buffers = [
        _buffers(lite_rt, environment, compiled, (index, signature_handle), kind)
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
    # The lines before the summary list each of the hundreds of operators.
    return table[max(table.find(_SUMMARY), 0) :]


def _verify(path: str | Path) -> None:
    """Refuses a damaged file: the C interface would read past its end."""
    try:
        Interpreter(model_path=str(path))
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise ProfileError(f"Cannot load '{path}': {text}") from error


def _signature(
    lite_rt: _LiteRt, model: ctypes.c_void_p, wanted: str
) -> tuple[int, ctypes.c_void_p]:
    count = ctypes.c_size_t()
    lite_rt("GetNumModelSignatures", model, ctypes.byref(count))
    names = []
    for index in range(count.value):
        signature = lite_rt.handle("GetModelSignature", model, ctypes.c_size_t(index))
        key = ctypes.c_char_p()
        lite_rt("GetSignatureKey", signature, ctypes.byref(key))
        names.append((key.value or b"").decode())
        if names[-1] == wanted:
            return index, signature
    raise ProfileError(
        f"The signature must be one of {', '.join(names) or 'none'}. Received: "
        f"{wanted}."
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
        tensor = lite_rt.handle(f"GetSignature{kind}TensorByIndex", handle, number)
        tensor_type = ctypes.create_string_buffer(_RANKED_TENSOR_TYPE_BYTES)
        lite_rt("GetRankedTensorType", tensor, tensor_type)
        needs = lite_rt.handle(
            f"GetCompiledModel{kind}BufferRequirements",
            compiled,
            ctypes.c_size_t(index),
            number,
        )
        buffer = lite_rt.handle(
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
    """Silences the runtime, which prints a line for each sparse weight."""
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
    """Runs the command line; returns the exit status."""
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


def _run_apart() -> int:
    """Runs `main` in a process of its own, so that a crash ends in a sentence too."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return main()
    process = multiprocessing.get_context("fork").Process(
        target=lambda: sys.exit(main())
    )
    process.start()
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process gets it itself
    process.join()
    status = process.exitcode or 0
    if -status in (signal.SIGINT, signal.SIGTERM):
        return 128 - status
    if status < 0:
        print(
            f"The runtime has crashed with {signal.Signals(-status).name}: the file is "
            "damaged, or too large for this machine.",
            file=sys.stderr,
        )
        return 2
    return status


if __name__ == "__main__":
    sys.exit(_run_apart())
