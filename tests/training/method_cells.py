"""Trains a tiny model by each method of sparsity in each mode, a JSON line per cell.

    python method_cells.py 12        # a sample of twelve cells
    python method_cells.py           # all of them

A program, as virtual devices must be made before TensorFlow's first use.
"""

import dataclasses
import itertools
import json
import random
import sys
from typing import Any

import numpy as np
from mode_cells import BATCH, LENGTH, SIZES, Recorder, Watch

from spdf_keras import SparsityConfig, build_gpt
from spdf_keras.errors import InputError
from spdf_keras.model.sparsity_plan import SparsityPlan
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.training.cluster import start_cluster

STEPS = 7
BASE = SparsityConfig(sparsity=0.75, seed=2, interval=2, end=6, drop_fraction=0.5)
METHODS: dict[str, dict[str, Any]] = {
    "set": {"method": "set"},
    "rigl": {"method": "rigl"},
    "gmp": {"method": "gmp", "initial_sparsity": 0.25},
    "redense": {"method": "redense", "stages": (0.5, 0.0), "shares": (0.3, 0.6)},
    "one_shot": {"method": "one_shot", "begin": 2},
    "erk": {"method": "rigl", "distribution": "erk"},
    "blocks": {"method": "rigl", "structure": "4x4"},
    "groups": {"method": "set", "structure": "1:4"},
}
MODES = ("eager", "graph", "xla")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
COMPUTES = ("dense", "sparse")


class WatchMasks(Watch):
    """Also notes the masks after every step, and whether their counts are exact."""

    def __init__(self, strategy: Any, plan: SparsityPlan) -> None:
        super().__init__(strategy)
        self.plan, self.exact, self.masks = plan, True, list[bytes]()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, logs)
        masks = {p: m.numpy() for p, m in self.model.named_masks().items()}
        self.masks.append(b"".join(np.packbits(m).tobytes() for m in masks.values()))
        asked = self.plan.kept(self.steps)
        self.exact &= all(
            int(mask.sum()) == asked[path.removesuffix("/kernel")]
            for path, mask in masks.items()
        )


def run_cell(
    cluster: Any, name: str, mode: str, precision: str, parts: int, compute: str
) -> dict[str, Any]:
    """What one cell did."""
    settings = dataclasses.replace(BASE, **METHODS[name])
    kind = Recorder if compute == "dense" else AdamW
    with cluster.strategy.scope():
        model = build_gpt(
            SIZES, settings, precision=precision, seed=1, compute=compute, tokens=10**6
        )
        model.compile(
            kind(1e-2, global_clipnorm=0.1),
            micro_batches=parts,
            jit_compile=mode == "xla",
            run_eagerly=mode == "eager",
            total_steps=STEPS,
        )
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 64, (STEPS * BATCH, LENGTH + 1), dtype=np.int32)

    def make(num_workers: int, worker: int, replicas: int) -> Any:
        import tensorflow as tf

        pairs = tf.data.Dataset.from_tensor_slices((tokens[:, :-1], tokens[:, 1:]))
        return pairs.batch(BATCH // replicas, drop_remainder=True)

    watch = WatchMasks(cluster.strategy, SparsityPlan(SIZES, settings, STEPS))
    model.fit(
        cluster.dataset(make), steps_per_epoch=STEPS, verbose=0, callbacks=[watch]
    )
    variables = [*model.weights, *model.optimizer.variables]
    copies = [
        [v.numpy().tobytes() for v in cluster.strategy.experimental_local_results(w)]
        for w in variables
    ]
    return {
        "losses": watch.losses,
        "violations": int(watch.found),
        "steps": watch.steps,
        "exact": bool(watch.exact),
        "updates": sum(a != b for a, b in itertools.pairwise(watch.masks)),
        "same_everywhere": all(len(set(copy)) == 1 for copy in copies),
    }


def main() -> None:
    """Runs all cells, or a sample of as many as the argument says."""
    clusters = {2: start_cluster("mirrored", replicas=2), 1: start_cluster()}
    cells = list(
        itertools.product(METHODS, MODES, PRECISIONS, (1, 4), clusters, COMPUTES)
    )
    # Float16 has no sparse products.
    cells = [c for c in cells if not (c[2] == "mixed_float16" and c[5] == "sparse")]
    if len(sys.argv) > 1:
        cells = random.Random(7).sample(cells, int(sys.argv[1]))
    for name, mode, precision, parts, replicas, compute in cells:
        cell = f"{name}-{mode}-{precision}-{parts}-{replicas}-{compute}"
        try:
            done = run_cell(clusters[replicas], name, mode, precision, parts, compute)
            print(json.dumps({"cell": cell, **done}), flush=True)
        except InputError as error:
            print(json.dumps({"cell": cell, "refused": str(error)}), flush=True)


if __name__ == "__main__":
    main()
