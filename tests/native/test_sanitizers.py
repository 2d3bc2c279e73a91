import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from spdf_keras.native import build

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


@pytest.mark.slow
def test_products_run_clean_under_address_and_undefined_behaviour_sanitizers(
    tmp_path: Path,
) -> None:
    compiler = shutil.which("g++")
    if compiler is None or platform.machine() != "x86_64":
        pytest.skip("needs g++ on x86-64")
    sources = build._SOURCES
    flags = ["-std=c++17", "-O1", "-g", "-Wno-psabi", f"-I{sources}", *SANITIZERS]
    objects = []
    for name, own in {"portable": (), **build._X86_LOOPS}.items():
        target = str(tmp_path / f"{name}.o")
        code = str(sources / f"loops_{name}.cpp")
        subprocess.run([compiler, *flags, *own, "-c", code, "-o", target], check=True)
        objects.append(target)
    program = str(tmp_path / "check")
    check = str(Path(__file__).with_name("check_products.cpp"))
    files = [str(sources / f"{name}.cpp") for name in ("structure", "sparse")]
    subprocess.run(
        [compiler, *flags, *files, check, *objects, "-o", program], check=True
    )
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
