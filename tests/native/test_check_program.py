"""`check_products.cpp`, compiled in ways that the library itself is not."""

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from spdf_keras.native import build

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
LOOPS: dict[str, tuple[str, ...]] = {"portable": ()}

pytestmark = pytest.mark.slow


def compile_check(
    compiler: str,
    flags: Sequence[str],
    loops: dict[str, tuple[str, ...]],
    folder: Path,
) -> str:
    """Compiles the program; returns its path."""
    sources = build._CORE
    common = [compiler, "-std=c++17", "-Wno-psabi", f"-I{sources}", *flags]
    objects = []
    for name, own in loops.items():
        objects.append(str(folder / f"{name}.o"))
        code = str(sources / f"loops_{name}.cpp")
        subprocess.run([*common, *own, "-c", code, "-o", objects[-1]], check=True)
    program = str(folder / "check")
    check = str(Path(__file__).with_name("check_products.cpp"))
    files = [str(sources / f"{name}.cpp") for name in ("structure", "sparse")]
    subprocess.run([*common, *files, check, *objects, "-o", program], check=True)
    return program


def test_products_run_clean_under_address_and_undefined_behaviour_sanitizers(
    tmp_path: Path,
) -> None:
    compiler = shutil.which("g++")
    if compiler is None or platform.machine() != "x86_64":
        pytest.skip("needs g++ on x86-64")
    loops = {**LOOPS, **build._X86_LOOPS}
    program = compile_check(compiler, ["-O1", "-g", *SANITIZERS], loops, tmp_path)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_products_are_right_with_neon_under_emulation(tmp_path: Path) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs Debian's g++-aarch64-linux-gnu and qemu-user")
    program = compile_check(compiler, ["-O3", "-static"], LOOPS, tmp_path)
    disassembler = compiler.replace("g++", "objdump")
    code = subprocess.run(
        [disassembler, "-d", str(tmp_path / "portable.o")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "fmla\tv" in code, "no vector instructions of NEON"
    done = subprocess.run([emulator, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "portable: worst" in done.stdout
