"""Damaged files with the delegate, under AddressSanitizer and UBSan."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spdf_keras.export import ExportCard, library_path

pytestmark = pytest.mark.slow

FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g")

# Each file runs in a child, with and without the delegate: a crash of the runtime alone
# is not the delegate's.
RUN = """
import os, random, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate

path, library, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
good = open(path, "rb").read()


def run(content, delegates):
    interpreter = Interpreter(
        model_content=content, experimental_delegates=delegates, num_threads=1
    )
    for name in ("prefill", "decode"):
        runner = interpreter.get_signature_runner(name)
        inputs = {
            n: np.zeros(d["shape"], d["dtype"])
            for n, d in runner.get_input_details().items()
        }
        if "lengths" in inputs:
            inputs["lengths"][:] = 1
        runner(**inputs)


def ends_well(content, with_delegate):
    child = os.fork()
    if not child:
        status = 1
        try:
            run(content, [load_delegate(library)] if with_delegate else None)
            status = 0
        except (ValueError, RuntimeError, KeyError, UnicodeDecodeError):
            status = 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) < 2


assert ends_well(good, True)
draw = random.Random(0)
crashes = 0
for case in range(count):
    content = bytearray(good)
    if case % 4 == 0:
        del content[draw.randrange(len(content)) :]
    else:
        # Most of a file is values; the graph and the indices lie in its head and tail.
        for _ in range(draw.choice((1, 4, 16))):
            place = draw.choice((draw.randrange(len(content)), draw.randrange(40000)))
            content[place % len(content)] ^= 1 << draw.randrange(8)
    if not ends_well(bytes(content), True) and ends_well(bytes(content), False):
        crashes += 1
        open(f"{path}.crash{case}", "wb").write(content)
print("crashes", crashes)
"""


@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_a_damaged_file_never_crashes_the_delegate(
    files: dict[str, ExportCard], tmp_path: Path, name: str
) -> None:
    compiler = shutil.which("g++")
    if compiler is None or platform.system() != "Linux":
        pytest.skip("needs g++ on Linux")
    library = library_path("litert", compiler, FLAGS)
    asan = subprocess.run(
        [compiler, "-print-file-name=libasan.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    path = tmp_path / "gpt.tflite"
    path.write_bytes(Path(files[name].path).read_bytes())
    environment = {
        **os.environ,
        "LD_PRELOAD": asan,
        "ASAN_OPTIONS": "detect_leaks=0:exitcode=86",
        "UBSAN_OPTIONS": "halt_on_error=1:exitcode=86",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(library), "80"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("crashes 0\n"), done.stdout + done.stderr[-6000:]
