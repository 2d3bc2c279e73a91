"""Programs that check the core, compiled in ways that the library itself is not."""

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from spdf_keras.native import build

PROGRAMS = ("check_products", "check_packed", "check_steps")
# Only processors of x86-64 have the instructions of this one.
PAIRS = "check_pairs"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")

pytestmark = pytest.mark.slow


def compile_check(
    program: str, compiler: str, machine: str, flags: Sequence[str], folder: Path
) -> str:
    """Compiles a program with the core; returns its path."""
    common = [compiler, "-std=c++17", "-Wno-psabi", f"-I{build._CORE}", *flags]
    objects = []
    for source, own in build.core_sources(machine).items():
        objects.append(str(folder / f"{source.stem}.o"))
        command = [*common, *own, "-c", str(source), "-o", objects[-1]]
        subprocess.run(command, check=True)
    made = str(folder / program)
    check = str(Path(__file__).with_name(f"{program}.cpp"))
    subprocess.run([*common, check, *objects, "-o", made], check=True)
    return made


@pytest.mark.parametrize("program", (*PROGRAMS, PAIRS))
def test_products_run_clean_under_address_and_undefined_behaviour_sanitizers(
    tmp_path: Path, program: str
) -> None:
    compiler = shutil.which("g++")
    if compiler is None or platform.machine() != "x86_64":
        pytest.skip("needs g++ on x86-64")
    flags = ["-O1", "-g", *SANITIZERS]
    check = compile_check(program, compiler, "x86_64", flags, tmp_path)
    done = subprocess.run([check], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_products_are_right_with_neon_under_emulation(
    tmp_path: Path, program: str
) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs Debian's g++-aarch64-linux-gnu and qemu-user")
    flags = ["-O3", "-static"]
    check = compile_check(program, compiler, "aarch64", flags, tmp_path)
    disassembler = compiler.replace("g++", "objdump")
    code = subprocess.run(
        [disassembler, "-d", str(tmp_path / "loops_portable.o")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "fmla\tv" in code, "no vector instructions of NEON"
    done = subprocess.run([emulator, check], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = {
        "check_products": ("portable, float32: worst", "portable, bfloat16: worst"),
        "check_packed": ("portable: worst", "integer products: yes"),
        "check_steps": ("portable: worst",),
    }
    assert all(line in done.stdout for line in told[program]), done.stdout
