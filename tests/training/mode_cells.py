"""Trains a tiny model in each mode given and prints what holds, a JSON line per cell.

    python mode_cells.py eager graph xla
    python mode_cells.py --sparse graph

A program, as virtual devices must be made before TensorFlow's first use.
"""

import itertools
import json
import sys
from typing import Any

import numpy as np

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.training.cluster import start_cluster

import tensorflow as tf  # isort: skip

SIZES = GPTConfig(1, 2, 32, vocabulary_size=64, max_sequence_length=16)
STEPS, BATCH, LENGTH = 5, 8, 8


class Recorder(AdamW):
    """Keeps each gradient as it comes to the update."""

    def build(self, var_list: Any) -> None:
        if not self.has_slots:
            self.seen = [
                self.add_variable_from_reference(variable, "seen")
                for variable in var_list
            ]
        super().build(var_list)

    def _update_all(self, strategy: Any, pairs: Any, move: Any, zero: Any) -> None:
        def record(slot: Any, gradient: Any, factor: Any) -> None:
            slot.assign(gradient * factor)

        for gradient, variable in pairs:
            slot = self.seen[self._index_dict[self._var_key(variable)]]
            strategy.extended.update(
                slot, record, args=(gradient, move.factor), group=False
            )
        super()._update_all(strategy, pairs, move, zero)


class Watch(keras.callbacks.Callback):
    """Counts in every replica what is not zero where a mask is, after every step."""

    def __init__(self, strategy: Any) -> None:
        super().__init__()
        self.strategy = strategy
        self.found = self.steps = 0
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        self.losses.append(float(logs["batch_loss"]))
        weights = self.model.named_weights()
        indices = {id(w): i for i, w in enumerate(self.model.trainable_variables)}
        for path, mask in self.model.named_masks().items():
            weight, optimizer = weights[path], self.model.optimizer
            variables = [weight, *optimizer.slots(weight)]
            if isinstance(optimizer, Recorder):
                variables.append(optimizer.seen[indices[id(weight)]])
            for variable in variables:
                for value in self.strategy.experimental_local_results(variable):
                    self.found += _outside(value.numpy(), mask.numpy())


def _outside(values: Any, mask: Any) -> int:
    """Counts what is not zero outside a mask; a vector holds kept entries alone."""
    if values.ndim == 1:
        assert values.size == np.count_nonzero(mask)
        return 0
    return int(np.count_nonzero(values[~mask]))


def run_cell(
    cluster: Any,
    mode: str,
    precision: str,
    parts: int,
    compute: str = "dense",
    recompute: bool = False,
) -> dict[str, Any]:
    """What one mode did."""
    # Sparse products may hand packed gradients over, which have no entry to record.
    kind = Recorder if compute == "dense" else AdamW
    with cluster.strategy.scope():
        model = build_gpt(SIZES, 0.75, precision=precision, seed=1, compute=compute)
        model.compile(
            kind(1e-2, global_clipnorm=0.1),  # clipping is active in each step
            micro_batches=parts,
            recompute=recompute,
            jit_compile=mode == "xla",
            run_eagerly=mode == "eager",
        )
    masks = {path: mask.numpy() for path, mask in model.named_masks().items()}
    before = {path: w.numpy() for path, w in model.named_weights().items()}
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 64, (STEPS * BATCH, LENGTH + 1), dtype=np.int32)

    def make(num_workers: int, worker: int, replicas: int) -> Any:
        pairs = tf.data.Dataset.from_tensor_slices((tokens[:, :-1], tokens[:, 1:]))
        return pairs.batch(BATCH // replicas, drop_remainder=True)

    watch = Watch(cluster.strategy)
    model.fit(
        cluster.dataset(make), steps_per_epoch=STEPS, verbose=0, callbacks=[watch]
    )
    copies = [
        [v.numpy().tobytes() for v in cluster.strategy.experimental_local_results(w)]
        for w in model.weights
    ]
    return {
        "losses": watch.losses,
        "gradients_seen": all(
            np.any(seen.numpy()) for seen in getattr(model.optimizer, "seen", ())
        ),
        "skipped": len(model.sparse_kernels),
        "violations": int(watch.found),
        "steps": watch.steps,
        "same_everywhere": all(len(set(copy)) == 1 for copy in copies),
        "masks_unchanged": all(
            np.array_equal(mask.numpy(), masks[path])
            for path, mask in model.named_masks().items()
        ),
        "only_kept_moved": all(
            np.array_equal(model.named_weights()[path].numpy() != before[path], mask)
            for path, mask in masks.items()
        ),
    }


def main() -> None:
    """Runs all cells of the modes in the arguments."""
    modes = [argument for argument in sys.argv[1:] if argument != "--sparse"]
    kinds: list[Any] = [("dense", False)]
    precisions = ["float32", "mixed_bfloat16", "mixed_float16"]
    if modes != sys.argv[1:]:
        kinds = [("dense", False), ("sparse", False), ("sparse", True)]
        precisions = precisions[:2]
    both = [start_cluster("mirrored", replicas=2), start_cluster()]
    for cluster, mode, precision, parts, (compute, recompute) in itertools.product(
        both, modes, precisions, (1, 4), kinds
    ):
        name = f"{mode}-{precision}-{parts}-{cluster.num_replicas}"
        if compute == "sparse":
            name += "-sparse" + "-recompute" * recompute
        try:
            done = run_cell(cluster, mode, precision, parts, compute, recompute)
            print(json.dumps({"cell": name, **done}), flush=True)
        except InputError as error:
            print(json.dumps({"cell": name, "refused": str(error)}), flush=True)


if __name__ == "__main__":
    main()
