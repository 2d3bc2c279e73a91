"""Compiles the native library for a framework, once per machine.

    python -m spdf_keras.native.build --target litert

prints the path of the library as its last line. The targets share the core; each adds
the door of one framework: TensorFlow's operations, LiteRT's delegate, XLA's custom
call. `make` compiles the first when it installs the package; otherwise the first use
compiles a library.
"""

import argparse
import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from spdf_keras.errors import InputError
from spdf_keras.files import cache_folder

_HERE = Path(__file__).parent
_CORE = _HERE / "core"
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden")
# The loops are compiled for each of these, and the library chooses at run time.
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = ("-mavx512f", "-mavx512vl", *_AVX2, "-mprefer-vector-width=512")
_VNNI = (*_AVX512, "-mavx512bw", "-mavx512vbmi2", "-mavx512vnni")
_AMX = (*_VNNI, "-mamx-tile", "-mamx-int8")
_BF16 = (*_AVX512, "-mavx512bw", "-mavx512bf16")
_TILES = (*_BF16, "-mavx512vbmi2", "-mamx-tile")
_X86_LOOPS = {
    "avx2": _AVX2,
    "avx512": _AVX512,
    "vnni": _VNNI,
    "amx": _AMX,
    "bf16": _BF16,
    "tiles": (*_TILES, "-mamx-bf16"),
}
_ARM_LOOPS = {"neon": ("-march=armv8.2-a+dotprod",)}
# Updates are equal to those of TensorFlow to the bit, which has no fused multiply-adds.
_EXACT = ("-ffp-contract=off", "-fno-math-errno")
# A library without these works; older compilers do not know their instructions.
_OPTIONAL_LOOPS = ("loops_vnni", "loops_amx", "loops_bf16", "loops_tiles", "loops_neon")


class NotBuiltError(InputError):
    """The native library cannot be compiled or loaded; products are dense."""


class Target(NamedTuple):
    """The door to one framework.

    Attributes:
        library: File name of the library.
        compile_flags: Returns the flags of its sources, which lie in the folder of its
            name.
        link_flags: Returns the flags of the linker.
        borrowed: Headers of another target that it includes.
    """

    library: str
    compile_flags: Callable[[], Sequence[str]]
    link_flags: Callable[[], Sequence[str]]
    borrowed: Sequence[str] = ()


def _tensorflow(kind: str) -> Sequence[str]:
    import tensorflow as tf

    return list(getattr(tf.sysconfig, f"get_{kind}_flags")())


def _jax_headers() -> Sequence[str]:
    import jax

    return ["-isystem", jax.ffi.include_dir()]


TARGETS = {
    "tensorflow": Target(
        "libspdf_operations.so",
        # TensorFlow finds operations and kernels by symbols that must be visible.
        lambda: (*_tensorflow("compile"), "-fvisibility=default"),
        lambda: _tensorflow("link"),
        ("xla/call_tools.h", "xla/job.h"),
    ),
    "litert": Target("libspdf_delegate.so", lambda: (), lambda: ("-pthread",)),
    "xla": Target("libspdf_ffi.so", _jax_headers, lambda: ("-pthread",)),
}


def library_path(
    target: str = "tensorflow",
    compiler: str | None = None,
    extra_flags: Sequence[str] = (),
) -> Path:
    """Compiles a library, unless it exists.

    It lies in a folder of `cache_folder()` that is named by a checksum of its sources,
    flags and compiler, so a new version of any of them gives a new library.

    Args:
        target: `tensorflow`, `litert` or `xla`.
        compiler: C++17 compiler, which may be a cross compiler; if None, the one that
            the variable `CXX` names, or else `g++` or `c++`.
        extra_flags: Further flags for compiling and linking, such as a sanitizer.

    Returns:
        The path of the library.

    Raises:
        InputError: If there is no such target.
        NotBuiltError: If there is no such compiler, or it fails.
    """
    if target not in TARGETS:
        raise InputError(
            f"`target` must be one of {', '.join(TARGETS)}. Received: {target}."
        )
    door = TARGETS[target]
    command = _compiler(compiler)
    machine = _machine(command)
    flags = (*_FLAGS, *door.compile_flags(), *extra_flags)
    own_flags = [(path.name, own) for path, own in core_sources(machine).items()]
    digest = hashlib.sha256(repr((flags, own_flags, command, machine)).encode())
    folders = (_CORE, _HERE / target)
    sources = [path for folder in folders for path in sorted(folder.iterdir())]
    for path in (*sources, *(_HERE / name for name in door.borrowed)):
        if path.suffix in (".cpp", ".h"):
            digest.update(path.read_bytes())
    library = cache_folder() / digest.hexdigest()[:16] / door.library
    if not library.is_file():
        core = _core_objects([command, *_FLAGS, *extra_flags], machine)
        links = (*core, *door.link_flags(), *extra_flags)
        _compile([command, *flags], target, links, library)
    return library


def _compiler(name: str | None) -> str:
    names = [name or os.environ.get("CXX", "")]
    if not names[0]:
        names = ["g++", "c++"]
    for candidate in names:
        if path := shutil.which(candidate):
            return path
    raise NotBuiltError(
        f"Sparse products need a C++17 compiler. Tried: {', '.join(names)}. Install "
        "g++, name one in CXX, or compute densely."
    )


@functools.cache
def _machine(compiler: str) -> str:
    """Returns what the compiler compiles for, such as `x86_64-linux-gnu`."""
    done = _run([compiler, "-dumpmachine"])
    return done.strip()


def core_sources(machine: str) -> dict[Path, tuple[str, ...]]:
    """Returns the C++ files of the core for a machine, each with flags of its own.

    Args:
        machine: As compilers name it, such as `x86_64-linux-gnu`.
    """
    own: dict[str, tuple[str, ...]] = {"adamw": _EXACT}
    loops: dict[str, tuple[str, ...]] = {"portable": ()}
    if machine.startswith("x86_64"):
        loops |= _X86_LOOPS
    elif machine.startswith(("aarch64", "arm64")):
        loops |= _ARM_LOOPS
    return {
        path: {**own, **loops}.get(path.stem.removeprefix("loops_"), ())
        for path in sorted(_CORE.glob("*.cpp"))
        if not path.stem.startswith("loops_") or path.stem[len("loops_") :] in loops
    }


def _core_objects(command: list[str], machine: str) -> list[str]:
    """Compiles the core, unless that was done; all libraries of a compiler share it."""
    sources = core_sources(machine)
    digest = hashlib.sha256(repr((command, machine, [*sources.values()])).encode())
    for path in sorted(_CORE.iterdir()):
        digest.update(path.read_bytes())
    folder = cache_folder() / digest.hexdigest()[:16]
    if not folder.is_dir():
        with _unfinished(folder.parent) as made:
            _compile_all(command, sources, f"{made}/core")
            # Two processes may compile; the first to finish gives the folder its name.
            with contextlib.suppress(OSError):
                os.rename(f"{made}/core", folder)
    return [str(path) for path in sorted(folder.glob("*.o"))]


def _compile(
    command: list[str], target: str, links: Sequence[str], library: Path
) -> None:
    sources = dict.fromkeys(sorted((_HERE / target).glob("*.cpp")), ())
    with _unfinished(library.parent) as folder:
        objects = _compile_all(command, sources, f"{folder}/{target}")
        unfinished = f"{folder}/{library.name}"
        _run([command[0], "-shared", *objects, *links, "-o", unfinished])
        # The library gets its name when it is finished, so two processes may compile.
        os.replace(unfinished, library)


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[str]:
    """Makes a folder in which to compile, and removes it afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotBuiltError(
            f"Cannot write to '{folder}': {error.strerror}. Name another folder in "
            "SPDF_CACHE, or compute densely."
        ) from error
    with tempfile.TemporaryDirectory(dir=folder) as made:
        yield made


def _compile_all(
    command: list[str], sources: Mapping[Path, Sequence[str]], folder: str
) -> list[str]:
    """Compiles files on all cores; returns the objects, in a new folder."""
    os.mkdir(folder)

    def compile_one(source: Path) -> str | None:
        made = f"{folder}/{source.stem}.o"
        own = sources[source]
        try:
            _run([*command, f"-I{_CORE}", *own, "-c", str(source), "-o", made])
        except NotBuiltError:
            if source.stem not in _OPTIONAL_LOOPS:
                raise
            return None
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [made for made in pool.map(compile_one, sources) if made]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        reason = (lines or done.stderr.splitlines() or ["no message"])[0]
        raise NotBuiltError(f"The C++ compiler {command[0]} has failed: {reason}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles a library and prints its path, or says why not; returns the status."""
    parser = argparse.ArgumentParser(
        prog="python -m spdf_keras.native.build",
        description="Compiles the native library for a framework and prints its path.",
    )
    parser.add_argument(
        "--target",
        choices=list(TARGETS),
        default="tensorflow",
        help="framework that loads the library (default: tensorflow)",
    )
    parser.add_argument(
        "--cxx",
        metavar="COMPILER",
        help="C++17 compiler; a cross compiler makes a library for another machine "
        "(default: $CXX, g++ or c++)",
    )
    parser.add_argument(
        "--flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="a further flag of the compiler, as in --flag=-static-libstdc++; may be "
        "repeated",
    )
    parser.add_argument(
        "--optional",
        action="store_true",
        help="succeed without a library; products are then dense",
    )
    args = parser.parse_args(arguments)
    try:
        print(library_path(args.target, args.cxx, args.flag))
    except NotBuiltError as error:
        if args.optional:
            print(f"{error} Until then products are dense.", file=sys.stderr)
            return 0
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
