"""Compiles the native library, once per machine, and loads it.

    python -m spdf_keras.native.tensorflow.build

compiles it beforehand, as `make` does when it installs the package. Otherwise the
first use compiles it.
"""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.files import cache_folder

_HERE = Path(__file__).parent
_CORE = _HERE.with_name("core")
_FLAGS = ("-std=c++17", "-O3", "-fPIC")
# The loops are compiled for each of these, and the library chooses at run time.
_X86_LOOPS = {
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512vl", "-mprefer-vector-width=512"),
}


class NotBuiltError(InputError):
    """The native library cannot be compiled or loaded; products are dense."""


@functools.cache
def load_operations() -> Any:
    """Loads the TensorFlow operations; the first use on a machine compiles them.

    Returns:
        A module with `spdf_sparse_linear` and `spdf_sparse_linear_gradient`.

    Raises:
        NotBuiltError: If there is no C++ compiler, or it fails.
    """
    import tensorflow as tf

    library = build_library()
    try:
        return tf.load_op_library(str(library))
    except tf.errors.NotFoundError as error:
        raise NotBuiltError(f"Cannot load '{library}': {error.message}") from error


def build_library() -> Path:
    """Compiles the library, unless it exists.

    Its file in `cache_folder()` is named by a checksum of its sources, TensorFlow's
    version and the compiler. The variable `CXX` names the compiler.

    Returns:
        The path of the file.

    Raises:
        NotBuiltError: If there is no C++ compiler, or it fails.
    """
    import tensorflow as tf

    compiler = _compiler()
    library = cache_folder() / f"{_checksum(compiler, tf.__version__)}.so"
    if not library.is_file():
        flags = (*_FLAGS, *tf.sysconfig.get_compile_flags())
        _compile(compiler, flags, tf.sysconfig.get_link_flags(), library)
    return library


def _compiler() -> str:
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "c++"]
    for name in names:
        if path := shutil.which(name):
            return path
    raise NotBuiltError(
        f"Sparse products need a C++17 compiler. Tried: {', '.join(names)}. Install "
        "g++, name one in CXX, or compute densely."
    )


def _checksum(*conditions: str) -> str:
    digest = hashlib.sha256(repr((_FLAGS, _X86_LOOPS, conditions)).encode())
    for path in (*sorted(_CORE.iterdir()), *sorted(_HERE.glob("*.cpp"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _compile(
    compiler: str, flags: tuple[str, ...], link_flags: list[str], library: Path
) -> None:
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    loops = {"portable": (), **(_X86_LOOPS if is_x86 else {})}
    library.parent.mkdir(parents=True, exist_ok=True)
    # The library gets its name when it is finished, so two processes may compile.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        objects = []
        for source, extra in (
            *((_CORE / f"loops_{name}.cpp", extra) for name, extra in loops.items()),
            (_CORE / "structure.cpp", ()),
            (_CORE / "sparse.cpp", ()),
            (_HERE / "ops.cpp", ()),
        ):
            target = f"{folder}/{source.stem}.o"
            include = f"-I{_CORE}"
            _run([compiler, *flags, include, *extra, "-c", str(source), "-o", target])
            objects.append(target)
        unfinished = f"{folder}/library.so"
        _run([compiler, "-shared", *objects, *link_flags, "-o", unfinished])
        os.replace(unfinished, library)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        reason = (lines or done.stderr.splitlines() or ["no message"])[0]
        raise NotBuiltError(f"The C++ compiler {command[0]} has failed: {reason}")


def main() -> None:
    """Compiles the library, or says why products are dense."""
    try:
        message = f"Sparse products are in {build_library()}."
    except NotBuiltError as error:
        message = f"{error} Until then products are dense."
    print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
