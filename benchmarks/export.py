"""How long does an export take, in how much memory, and how large is its result?

    python benchmarks/export.py --model gpt2_small --sparsity 0 0.5 0.75

It runs `spdf-keras export` for every format and encoding, one after the other, each in
a process of its own. Peak memory is that of the largest process of the command; for an
XLA export that includes the run in JAX that checks it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from spdf_keras.console import print_json
from spdf_keras.provenance import provenance

TFLITE = [
    ["--format", "tflite", *sparse, *quantize]
    for quantize in ([], ["--quantize", "fp16"], ["--quantize", "int8"])
    for sparse in ([], ["--sparse"])
]
XLA = [["--format", "xla", *sparse] for sparse in ([], ["--sparse"])]
SAVED_MODEL = [["--format", "saved_model"]]
FORMATS = {"tflite": TFLITE, "xla": XLA, "saved_model": SAVED_MODEL}


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2_small", help="a preset")
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0.0, 0.5, 0.75])
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--cache-length", type=int, default=256)
    parser.add_argument("--keep", help="folder to keep the artefacts in")
    args = parser.parse_args()

    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.keep or scratch)
        for sparsity in args.sparsity:
            for options in (o for name in args.formats for o in FORMATS[name]):
                result = export(args, sparsity, options, folder)
                results.append(result)
                print(
                    "| {format} | {sparsity:.0%} | {size_mb:.1f} | {of_dense:.3f} | "
                    "{of_bound:.2f} | {relative_error:.1e} | {seconds:.0f} | "
                    "{peak_gb:.1f} |".format(**result),
                    flush=True,
                )
    print_json({**vars(args), **provenance(), "results": results})


def export(
    args: argparse.Namespace, sparsity: float, options: list[str], folder: Path
) -> dict[str, Any]:
    """Runs one export; returns the fields of its row."""
    name = "_".join([f"s{sparsity:g}", *(o.strip("-") for o in options[1:])])
    target = folder / (f"{name}.tflite" if "tflite" in options else name)
    lengths = ["--cache-length", str(args.cache_length)]
    if "saved_model" in options:
        lengths = []
    command = ["export", args.model, "--sparsity", str(sparsity), *options, *lengths]
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "spdf_keras", *command, "--out", str(target), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"failed: spdf-keras {' '.join(command)}")
    seconds = time.perf_counter() - start
    card = json.loads(output.splitlines()[-1])
    if not args.keep:
        subprocess.run(["rm", "-rf", str(target)], check=True)
    return {
        "format": card["format"],
        "sparsity": sparsity,
        "size_mb": card["size_bytes"] / 1e6,
        "of_dense": card["size_bytes"] / card["dense_size_bytes"],
        "of_bound": card["size_bytes"] / card["bound_size_bytes"],
        "relative_error": card["relative_error"],
        "seconds": seconds,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


if __name__ == "__main__":
    main()
