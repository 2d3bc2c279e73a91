"""What do masks that change cost, between their updates and in one?

    python benchmarks/mask_updates.py
    python benchmarks/mask_updates.py --model gpt_mini --methods set rigl gmp

Models take turns, step by step, in one process: one with static masks, and one per
method that stands between two updates; `naive` is the last method with one Adam count
for all weights. A ratio compares two steps of one round. Then each method makes
updates, also in turns with static steps.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from spdf_keras import SparsityConfig, build_gpt
from spdf_keras.config import get_preset
from spdf_keras.console import print_json
from spdf_keras.measuring.turns import Spread, ratios, time_in_turns
from spdf_keras.provenance import provenance

# Updates begin after more steps than are measured between them.
FIRST, LAST, INTERVAL = 100, 2000, 100


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2_small")
    parser.add_argument("--tokens", default="1x1024", help="batch x length")
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--compute", default="dense")
    parser.add_argument("--methods", nargs="+", default=["set", "rigl"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=3)
    args = parser.parse_args()

    batch, length = map(int, args.tokens.split("x"))
    sizes = dataclasses.replace(
        get_preset(args.model).model, max_sequence_length=length
    )
    rng = np.random.default_rng(0)
    shape = batch, length + 1
    tokens = rng.integers(0, sizes.vocabulary_size, shape, dtype=np.int32)
    kinds = {"static": SparsityConfig(args.sparsity)}
    for name in args.methods:
        kinds[name] = SparsityConfig(
            args.sparsity, method=name, begin=FIRST, end=LAST, interval=INTERVAL
        )
    kinds["naive"] = dataclasses.replace(kinds[args.methods[-1]], own_counts=False)
    models = {
        name: build_gpt(sizes, settings, compute=args.compute)
        for name, settings in kinds.items()
    }
    steps = {name: step_of(model, tokens) for name, model in models.items()}
    between = time_in_turns(steps, args.rounds, warm_up=2)
    results: dict[str, Any] = {}
    for name, times in between.items():
        ratio = ratios(times, between["static"])
        seconds = Spread.of(times)
        print(f"{name:10} between updates: {seconds.show(unit=' s')}, ", end="")
        print(f"{ratio.show(form='.3f')} of static", flush=True)
        results[name] = {"seconds": vars(seconds), "of_static": vars(ratio)}
    for name in args.methods:
        calls = {"static": steps["static"], name: update_of(models[name], steps[name])}
        updating = time_in_turns(calls, args.updates)
        ratio = ratios(updating[name], updating["static"])
        print(f"{name:10} step with update: {ratio.show(form='.2f')} static steps")
        results[name]["with_update_of_static"] = vars(ratio)
    print_json({**vars(args), **provenance(), "results": results})


def step_of(model: Any, tokens: Any) -> Callable[[], None]:
    """Returns a function that takes one step on one batch."""

    def step() -> None:
        model.train_on_batch(tokens[:, :-1], tokens[:, 1:])

    return step


def update_of(model: Any, step: Callable[[], None]) -> Callable[[], None]:
    """Returns a function that takes a step with an update before it."""
    due = iter(model.mask_updates.steps)

    def run() -> None:
        model.optimizer.iterations.assign(next(due))
        step()

    return run


if __name__ == "__main__":
    main()
