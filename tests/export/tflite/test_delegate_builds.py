"""The libraries for other frameworks and machines, and the program in C."""

import re
import shutil
import subprocess
from pathlib import Path

import ai_edge_litert
import pytest

from spdf_keras.errors import InputError
from spdf_keras.export import ExportCard, library_path
from spdf_keras.native import build

EXAMPLE = Path(__file__).parents[3] / "examples" / "compiled_model.c"


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(InputError, match="tensorflow, litert, xla. Received: onnx"):
        library_path("onnx")


def test_the_delegate_needs_nothing_of_the_runtime() -> None:
    reader = shutil.which("readelf")
    if reader is None or shutil.which("g++") is None:
        pytest.skip("needs g++ and readelf")
    done = subprocess.run(
        [reader, "-d", str(library_path("litert"))],
        capture_output=True,
        text=True,
        check=True,
    )
    needed = re.findall(r"\(NEEDED\).*\[(.+?)\.so", done.stdout)
    assert {"libstdc++", "libc"} <= set(needed)
    system = {"libstdc++", "libc", "libm", "libgcc_s", "libdl", "ld-linux-x86-64"}
    assert set(needed) <= system


def test_the_delegate_is_compiled_for_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("needs Debian's g++-aarch64-linux-gnu")
    monkeypatch.setenv("SPDF_CACHE", str(tmp_path))
    assert build.main(["--target", "litert", "--cxx", compiler, "--flag=-O1"]) == 0
    library = Path(capsys.readouterr().out.splitlines()[-1])
    assert library.name == "libspdf_delegate.so"
    head = library.read_bytes()[:20]
    assert head[:4] == b"\x7fELF" and head[18:20] == b"\xb7\x00"  # EM_AARCH64


def test_a_program_in_c_gets_the_same_logits_with_the_delegate(
    tmp_path: Path, files: dict[str, ExportCard]
) -> None:
    compiler = shutil.which("gcc")
    if compiler is None or shutil.which("g++") is None:
        pytest.skip("needs gcc and g++")
    litert = next(iter(ai_edge_litert.__path__))
    program = str(tmp_path / "program")
    command = [compiler, "-Wall", "-Wextra", "-Werror", str(EXAMPLE), "-o", program]
    links = [f"{litert}/libLiteRt.so", f"-Wl,-rpath,{litert}", "-ldl", "-lm"]
    subprocess.run([*command, *links], check=True)
    for signature in ("prefill", "decode"):
        sums = []
        for library in ([], [str(library_path("litert"))]):
            done = subprocess.run(
                [program, files["sparse"].path, signature, *library],
                capture_output=True,
                text=True,
                check=True,
            )
            (found,) = re.findall(r"logits ([\d.]+),", done.stdout)
            sums.append(float(found))
        assert sums[0] > 0 and sums[1] == pytest.approx(sums[0], rel=1e-4)
