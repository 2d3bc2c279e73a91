"""Trains a model on one device and on two, and prints a JSON line of each.

It is a program because virtual devices must exist before TensorFlow's first use. The
batches have 4 and 1 sequences; the second leaves a replica without any.
"""

import json
from typing import Any

import numpy as np

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.keras2 import keras
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.training.cluster import start_cluster

SIZES = GPTConfig(1, 2, 16, vocabulary_size=64, max_sequence_length=16)


def history(cluster: Any) -> dict[str, list[float]]:
    """What `fit` logs: weights per sequence, ignored labels, metrics, added losses."""
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, 64, (2, 9, 12)).astype(np.int32)
    weights = rng.random(9).astype(np.float32)
    labels = np.where(rng.random((9, 12)) < 0.3, -100, labels)
    with cluster.strategy.scope():
        model = build_gpt(SIZES, 0.5)
        bias = model.named_weights()["final_norm/gamma"]
        model.add_loss(lambda: 0.01 * keras.backend.sum(bias))
        model.compile(
            AdamW(1e-2, global_clipnorm=0.1),
            keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, ignore_class=-100
            ),
            micro_batches=2,
            metrics=["accuracy"],
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")],
        )
    fitted = model.fit(
        ids,
        labels,
        batch_size=4,
        sample_weight=weights,
        validation_data=(ids[:5], labels[:5], weights[:5]),
        epochs=2,
        shuffle=False,
        verbose=0,
    )
    return fitted.history


if __name__ == "__main__":
    replicas = start_cluster("mirrored", replicas=2)
    for cluster in (start_cluster(), replicas):
        print(json.dumps(history(cluster)))
