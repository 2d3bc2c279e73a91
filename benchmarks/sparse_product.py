"""Our sparse products against TensorFlow's dense ones: forward and both gradients.

    python benchmarks/sparse_product.py --shapes 768x3072 3072x768 --tokens 256 1024
    python benchmarks/sparse_product.py --model gpt2_small --sparsity 0.5 0.75

The first form times single products (TensorFlow's, with a kernel that is masked
already) in turns, in one process; what it takes to lay out activations and to gather
the kept weights counts. The second times whole training steps of batch 1 of a preset at
`--tokens`: dense, masked (zeros multiplied) and sparse. A ratio is that of two calls of
one round; printed are medians and quartiles.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[], Any]


def main() -> None:
    """Measures and prints tables, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="*", default=["768x3072"], help="in x out")
    parser.add_argument("--tokens", type=int, nargs="*", default=[1024])
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0.5, 0.75, 0.9])
    parser.add_argument("--model", help="a preset, for whole steps")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    results = []
    for tokens in args.tokens:
        for sparsity in args.sparsity:
            if args.model:
                results.append(step(args, tokens, sparsity))
                continue
            for shape in args.shapes:
                results.append(product(args, shape, tokens, sparsity))
    conditions = {"cores": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({**vars(args), **conditions, "results": results}))


def product(
    args: argparse.Namespace, shape: str, tokens: int, sparsity: float
) -> dict[str, Any]:
    """One kernel, forward and backward."""
    import spdf_keras.keras2  # noqa: F401

    import tensorflow as tf  # isort: skip
    from spdf_keras.native.build import load_operations

    operations = load_operations()
    columns, rows = map(int, shape.split("x"))
    random = np.random.default_rng(0)

    def normal(*size: int) -> Any:
        return random.normal(size=size).astype(np.float32)

    mask = tf.constant(random.random((columns, rows)) >= sparsity)
    kernel = tf.Variable(normal(columns, rows) * mask.numpy())
    x, dy = tf.constant(normal(tokens, columns)), tf.constant(normal(tokens, rows))
    bias = tf.zeros(rows)
    calls: dict[str, Call] = {
        "sparse forward": tf.function(
            lambda: operations.spdf_sparse_linear(x, kernel, mask, bias)
        ),
        "dense forward": tf.function(
            lambda: tf.nn.bias_add(tf.matmul(x, kernel), bias)
        ),
        "sparse backward": tf.function(
            lambda: operations.spdf_sparse_linear_gradient(x, kernel, mask, dy)
        ),
        "dense backward": tf.function(
            lambda: (
                tf.matmul(dy, kernel, transpose_b=True),
                tf.matmul(x, dy, transpose_a=True),
            )
        ),
    }
    times = alternate(calls, args.rounds)
    speedups = {
        "forward": times["dense forward"] / times["sparse forward"],
        "backward": times["dense backward"] / times["sparse backward"],
        "both": (times["dense forward"] + times["dense backward"])
        / (times["sparse forward"] + times["sparse backward"]),
    }
    return told(f"{shape} | {tokens} | {sparsity:.0%}", times, speedups)


def step(args: argparse.Namespace, tokens: int, sparsity: float) -> dict[str, Any]:
    """Whole training steps of a model."""
    from spdf_keras import build_gpt
    from spdf_keras.config import get_preset
    from spdf_keras.flops import training_flops

    import tensorflow as tf  # isort: skip

    sizes = get_preset(args.model).model
    sizes = dataclasses.replace(sizes, max_sequence_length=tokens)
    models = {
        "dense": build_gpt(sizes),
        "masked": build_gpt(sizes, sparsity),
        "sparse": build_gpt(sizes, sparsity, compute="sparse"),
    }
    random = np.random.default_rng(0)
    ids = random.integers(sizes.vocabulary_size, size=(1, tokens + 1), dtype=np.int32)
    data = tf.constant(ids[:, :-1]), tf.constant(ids[:, 1:])

    def taken(model: Any) -> Call:
        batches = iter(tf.data.Dataset.from_tensors(data).repeat())
        function = model.make_train_function()
        return lambda: float(function(batches)["batch_loss"])

    times = alternate({n: taken(m) for n, m in models.items()}, args.rounds)
    ratios = {name: t / times["dense"] for name, t in times.items()}
    flops = training_flops(sizes, tokens, sparsity) / training_flops(sizes, tokens)
    ratios["theory"] = np.full(args.rounds, flops)
    return told(f"{args.model} step | {tokens} | {sparsity:.0%}", times, ratios)


def alternate(calls: dict[str, Call], rounds: int) -> dict[str, Any]:
    """Seconds of each call in each round, after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: np.array(seconds) for name, seconds in times.items()}


def told(title: str, times: dict[str, Any], ratios: dict[str, Any]) -> dict[str, Any]:
    """Prints a line, and returns its content."""
    quartiles = {
        n: np.quantile(r, (0.5, 0.25, 0.75)).tolist() for n, r in ratios.items()
    }
    cells = (
        f"{n} {m:.2f}x ({low:.2f}-{high:.2f})"
        for n, (m, low, high) in quartiles.items()
    )
    print(f"| {title} | {' | '.join(cells)} |", flush=True)
    medians = {name: float(np.median(t)) for name, t in times.items()}
    return {"what": title, "seconds": medians, "ratios": quartiles}


if __name__ == "__main__":
    main()
