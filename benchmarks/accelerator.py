"""How much faster do zeros make programs and products on an accelerator?

    python benchmarks/accelerator.py --artefacts forward_dense train_sparse
    python benchmarks/accelerator.py --size 12288 --sparsity 0 0.5 0.75 0.9 0.95

It needs JAX and NumPy alone, so it runs where TensorFlow is not: copy it there with
`run_xla.py`, `xla_artefact.py` and `xla_library.py` beside it or in
`../export/runners/`. For the same reason it takes turns by itself and not with
`spdf_keras.measuring.turns`. Artefacts are timed program by program
(`run_xla.py --benchmark`). Products of a square random sparse matrix with a dense one,
float32, are timed dense and as BCSR of `jax.experimental.sparse`, in turns; on a GPU
BCSR runs cuSPARSE. With `--bfloat16`, dense products in bfloat16 are timed as well.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artefacts", nargs="*", default=[], help="XLA folders")
    parser.add_argument("--size", type=int, default=0, help="rows and columns")
    parser.add_argument(
        "--columns",
        type=int,
        default=0,
        help="default: --size",
    )
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0.5, 0.75, 0.9])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bfloat16", action="store_true")
    args = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, {device.platform}, JAX {jax.__version__}")
    if device.platform == "gpu":
        jax.config.update("jax_bcoo_cusparse_lowering", True)
    results: dict[str, Any] = {
        "device": device.device_kind,
        "machine": platform.machine(),
        "jax": jax.__version__,
        "artefacts": {
            folder: artefact(folder, args.rounds) for folder in args.artefacts
        },
        "products": products(args) if args.size else [],
    }
    print(json.dumps(results, default=float))


def artefact(folder: str, rounds: int) -> dict[str, Any]:
    """Checks an artefact and times its programs."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "export" / "runners")]
    from run_xla import XLAModel  # type: ignore[import-not-found]

    model = XLAModel(folder)
    start = time.perf_counter()
    jax.block_until_ready(model.state)
    load = time.perf_counter() - start
    result = {"load_s": load, "check": model.check(), **model.benchmark(rounds)}
    for name, program in result["programs"].items():
        print(
            f"| {Path(folder).name} | {name} | {program['latency_ms']:.2f} | "
            f"{program['tokens_per_second']:.0f} | {program['share_of_peak']:.1%} | "
            f"{result['check']['error']:.1e} |"
        )
    return result


def products(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Times `W @ x` at each sparsity, dense and BCSR, in turns."""
    columns = args.columns or args.size
    key = jax.random.key(0)
    x = jax.random.normal(key, (args.size, columns), jnp.float32)
    records = []
    for sparsity in args.sparsity:
        random = np.random.default_rng(1)
        dense = random.normal(size=(args.size, args.size)).astype(np.float32)
        dense[random.random(dense.shape, np.float32) < sparsity] = 0
        weight = jnp.asarray(dense)
        code = sparse.BCSR.fromdense(weight)
        del dense
        calls: dict[str, Any] = {
            "dense": (jax.jit(lambda w, x: w @ x), weight, x),
            "bcsr": (jax.jit(lambda w, x: w @ x), code, x),
        }
        if args.bfloat16:
            half = weight.astype(jnp.bfloat16), x.astype(jnp.bfloat16)
            calls["dense bfloat16"] = (jax.jit(lambda w, x: w @ x), *half)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(args.rounds + 1):
            for name, (call, *factors) in calls.items():
                start = time.perf_counter()
                call(*factors).block_until_ready()
                if turn:
                    times[name].append(time.perf_counter() - start)
        ratios = [d / s for d, s in zip(times["dense"], times["bcsr"], strict=True)]
        error = jnp.abs(calls["dense"][0](weight, x) - calls["bcsr"][0](code, x)).max()
        record: dict[str, Any] = {
            "size": args.size,
            "columns": columns,
            "sparsity": sparsity,
            "seconds": {name: statistics.median(t) for name, t in times.items()},
            "bcsr_speedup": statistics.median(ratios),
            "max_abs_difference": float(error),
        }
        records.append(record)
        seconds = "  ".join(
            f"{n} {1e3 * s:.1f} ms" for n, s in record["seconds"].items()
        )
        print(
            f"{sparsity:.0%}: {seconds}; BCSR is {record['bcsr_speedup']:.3g}x as fast"
        )
    return records


if __name__ == "__main__":
    main()
