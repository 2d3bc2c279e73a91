"""How much memory does a training step take?

    python benchmarks/memory.py --model gpt3_xl --compute sparse --recompute
    python benchmarks/memory.py --model gpt3_xl --kept-moments --recompute
    python benchmarks/memory.py --model gpt2_small --tokens 1x1024

It builds the model and takes steps on random tokens. The table has the bytes of the
variables, and the resident memory after each stage with its peak so far.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from spdf_keras.console import print_json
from spdf_keras.provenance import provenance

GB = 1e9


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2_small")
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--tokens", default="1x2048", help="batch x length")
    parser.add_argument("--kept-moments", action="store_true")
    parser.add_argument(
        "--compute", choices=("dense", "sparse"), default="dense", help="of products"
    )
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--steps", type=int, default=1)
    args = parser.parse_args()

    from spdf_keras import build_gpt
    from spdf_keras.sparsity.audit import audit_masks

    stages: list[dict[str, Any]] = [stage("TensorFlow loaded", 0.0)]
    start = time.perf_counter()
    model = build_gpt(
        args.model,
        args.sparsity,
        kept_moments=args.kept_moments or "auto",
        compute=args.compute,
        recompute=args.recompute,
        precision=args.precision,
    )
    stages.append(stage("model built", start))
    start = time.perf_counter()
    model.optimizer.build(model.trainable_variables)
    stages.append(stage("optimizer built", start))
    batch, length = map(int, args.tokens.split("x"))
    rng = np.random.default_rng(0)
    shape = (batch, length + 1)
    tokens = rng.integers(0, model.sizes.vocabulary_size, shape, dtype=np.int32)
    for step in range(args.steps):
        start = time.perf_counter()
        logs = model.train_on_batch(tokens[:, :-1], tokens[:, 1:], return_dict=True)
        stages.append(stage(f"step {step + 1}, loss {logs['loss']:.4f}", start))
    slots = [s for w in model.trainable_weights for s in model.optimizer.slots(w)]
    skips = args.compute == "sparse"  # then gradients are those of kept weights
    gradients = slots[::2] if skips else model.trainable_weights
    sizes = {
        "weights": num_bytes(model.trainable_weights),
        "masks": num_bytes(model.named_masks().values()),
        "moments": num_bytes(slots),
        "gradients, in a step": num_bytes(gradients),
    }
    violations = sum(report.violations for report in audit_masks(model))
    for name, size in sizes.items():
        print(f"{name:24}{size / GB:8.2f} GB")
    print(f"violations of the masks: {violations}")
    results = {"bytes": sizes, "stages": stages, "violations": violations}
    print_json({**vars(args), **provenance(), "results": results})


def num_bytes(variables: Any) -> int:
    """Counts the bytes of variables."""
    return sum(v.shape.num_elements() * v.dtype.size for v in variables)


def stage(name: str, start: float) -> dict[str, Any]:
    """Prints and returns the resident memory now, and its peak so far."""
    status = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    now, peak = (int(fields[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    seconds = time.perf_counter() - start if start else 0.0
    print(
        f"{name:24}{now / GB:8.2f} GB  peak {peak / GB:6.2f} GB  {seconds:6.1f} s",
        flush=True,
    )
    return {"stage": name, "resident": now, "peak": peak, "seconds": seconds}


if __name__ == "__main__":
    main()
