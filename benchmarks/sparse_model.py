"""Whole models whose zeros are skipped against dense ones: training and decoding.

    python benchmarks/sparse_model.py step --sparsity 0.75 0.5
    python benchmarks/sparse_model.py decode --sparsity 0.75 0.5 --batch 1 8

`step` times training steps of batch 1 at `--tokens`: dense, masked (zeros multiplied)
and sparse. `decode` times `generate` on prompts of 32 tokens: masked and sparse.
Models take turns in one process; a ratio is that of two calls of one round; printed are
medians and quartiles. Single products: `spdf-keras benchmark matmul`.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

Call = Callable[[], Any]


def main() -> None:
    """Measures and prints tables, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["step", "decode"])
    parser.add_argument("--model", default="gpt2_small", help="a preset")
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0.5, 0.75])
    parser.add_argument("--tokens", type=int, default=1024, help="of a step's sequence")
    parser.add_argument("--batch", type=int, nargs="*", default=[1], help="prompts")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    results = []
    for sparsity in args.sparsity:
        results += (
            step(args, sparsity) if args.what == "step" else decode(args, sparsity)
        )
    conditions = {"cores": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({**vars(args), **conditions, "results": results}))


def step(args: argparse.Namespace, sparsity: float) -> list[dict[str, Any]]:
    """Whole training steps of a model."""
    from spdf_keras import build_gpt
    from spdf_keras.config import get_preset
    from spdf_keras.flops import training_flops

    import tensorflow as tf  # isort: skip

    sizes = get_preset(args.model).model
    sizes = dataclasses.replace(sizes, max_sequence_length=args.tokens)
    models = {
        "dense": build_gpt(sizes),
        "masked": build_gpt(sizes, sparsity),
        "sparse": build_gpt(sizes, sparsity, compute="sparse"),
    }
    random = np.random.default_rng(0)
    shape = 1, args.tokens + 1
    ids = random.integers(sizes.vocabulary_size, size=shape, dtype=np.int32)
    data = tf.constant(ids[:, :-1]), tf.constant(ids[:, 1:])

    def taken(model: Any) -> Call:
        batches = iter(tf.data.Dataset.from_tensors(data).repeat())
        function = model.make_train_function()
        return lambda: float(function(batches)["batch_loss"])

    times = alternate({n: taken(m) for n, m in models.items()}, args.rounds)
    ratios = {name: t / times["dense"] for name, t in times.items() if name != "dense"}
    flops = training_flops(sizes, args.tokens, sparsity)
    theory = flops / training_flops(sizes, args.tokens)
    title = f"step, {sparsity:.0%} zeros, {theory:.2f} of the operations: of dense"
    return [told(title, times, ratios)]


def decode(args: argparse.Namespace, sparsity: float) -> list[dict[str, Any]]:
    """Continuations of random prompts, which both models must agree on."""
    from spdf_keras import build_gpt

    models = {
        name: build_gpt(args.model, sparsity, compute=compute)
        for name, compute in (("masked", "dense"), ("sparse", "sparse"))
    }
    random = np.random.default_rng(0)
    results = []
    for batch in args.batch:
        prompts = random.integers(2000, size=(batch, 32)).tolist()
        found: dict[str, list[list[int]]] = {}
        calls = {
            name: partial(_continue, name, model, prompts, args.new_tokens, found)
            for name, model in models.items()
        }
        times = alternate(calls, args.rounds)
        equal = np.mean(np.array(found["masked"]) == np.array(found["sparse"]))
        title = f"decode, {sparsity:.0%} zeros, batch {batch}, {equal:.0%} equal tokens"
        speedup = times["masked"] / times["sparse"]
        results.append(told(title, times, {"faster": speedup}))
    return results


def _continue(
    name: str,
    model: Any,
    prompts: list[list[int]],
    new_tokens: int,
    found: dict[str, list[list[int]]],
) -> None:
    found[name] = model.generate(prompts, new_tokens, batch_size=len(prompts))


def alternate(calls: Mapping[str, Call], rounds: int) -> dict[str, Any]:
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
