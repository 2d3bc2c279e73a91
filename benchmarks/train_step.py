"""What masking costs: a masked training step over the dense step of one model.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --layers 12 --vocabulary-size 50257 --tokens 1x1024

Three models of equal sizes and data take turns, step by step, in one process:
dense; masked by our wrapper; wrapped by tfmot's own `PruneLowMagnitude`, whose
mask is never updated, its cheapest case. Each ratio is that of two neighbouring
steps; printed are their median and quartiles. The default sizes are one block of
GPT-2 Small with a small vocabulary, where the weights count most.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--hidden-dim", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocabulary-size", type=int, default=1024)
    parser.add_argument("--tokens", default="2x512", help="batch x length")
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()

    results: list[dict[str, Any]] = []
    for jit_compile in (False, True):
        steps = build_steps(args, jit_compile)
        seconds = alternate(steps, args.rounds)
        dense = seconds["dense"]
        for name, times in seconds.items():
            ratios = [t / d for t, d in zip(times, dense, strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4)
            results.append(
                {
                    "jit_compile": jit_compile,
                    "variant": name,
                    "median_ms": 1e3 * statistics.median(times),
                    "ratio": median,
                    "ratio_quartiles": [low, high],
                }
            )
    for row in results:
        low, high = row["ratio_quartiles"]
        print(
            f"jit_compile={row['jit_compile']!s:5}  {row['variant']:7}"
            f"{row['median_ms']:9.1f} ms  {row['ratio']:.3f}x of dense"
            f"  (quartiles {low:.3f} to {high:.3f})"
        )
    conditions = {"cores": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({**vars(args), **conditions, "results": results}))


def build_steps(
    args: argparse.Namespace, jit_compile: bool
) -> dict[str, Callable[[], None]]:
    """A function per variant that runs one training step on one fixed batch."""
    import tensorflow as tf

    from spdf_keras import GPTConfig, build_gpt

    batch, length = map(int, args.tokens.split("x"))
    sizes = GPTConfig(
        args.layers,
        args.heads,
        args.hidden_dim,
        vocabulary_size=args.vocabulary_size,
        max_sequence_length=length,
    )
    models = {
        "dense": build_gpt(sizes),
        "masked": build_gpt(sizes, args.sparsity),
        "tfmot": stock_gpt(build_gpt(sizes), args.sparsity),
    }
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, args.vocabulary_size, (batch, length + 1), dtype=np.int32)
    data = tf.constant(tokens[:, :-1]), tf.constant(tokens[:, 1:])

    def step_of(model: Any) -> Callable[[], None]:
        model.optimizer.build(model.trainable_variables)
        step = tf.function(model.train_step, jit_compile=jit_compile)

        def run() -> None:
            step(data)["batch_loss"].numpy()

        return run

    return {name: step_of(model) for name, model in models.items()}


def stock_gpt(dense: Any, sparsity: float) -> Any:
    """The same model under tfmot's own wrapper."""
    import tensorflow_model_optimization as tfmot

    from spdf_keras.keras2 import keras
    from spdf_keras.model.block import GPTBlock

    never = tfmot.sparsity.keras.ConstantSparsity(sparsity, begin_step=10**9)

    def wrap(layer: Any) -> Any:
        if not isinstance(layer, GPTBlock):
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, never)

    model = keras.models.clone_model(dense, clone_function=wrap)
    callback = tfmot.sparsity.keras.UpdatePruningStep()
    callback.set_model(model)
    model.compile(dense.optimizer.__class__.from_config(dense.optimizer.get_config()))
    callback.on_train_begin()
    callback.on_train_batch_begin(0)
    return model


def alternate(
    steps: dict[str, Callable[[], None]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each step, taken in turns after a warm-up."""
    for _ in range(3):
        for step in steps.values():
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
