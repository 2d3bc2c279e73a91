"""In which mode does a config pre-train fastest on this machine?

    python benchmarks/modes.py configs/evidence_small.toml
    taskset -c 0 python benchmarks/modes.py configs/evidence_small.toml --sparsity 0

The config's model takes steps of pre-training in each mode, in turns, in one process.
The hours are those of one pre-training with the config's tokens.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from spdf_keras.config import Config, config_from_tables, load_config
from spdf_keras.console import print_json, print_table
from spdf_keras.measuring.turns import Spread, ratios, time_in_turns
from spdf_keras.model.build import compile_for_pretraining, configured_gpt
from spdf_keras.provenance import provenance

MODES: dict[str, dict[str, Any]] = {
    "float32": {"jit_compile": False},
    "float32, XLA": {"jit_compile": True},
    "bfloat16": {"jit_compile": False, "precision": "mixed_bfloat16"},
    "bfloat16, XLA": {"jit_compile": True, "precision": "mixed_bfloat16"},
    "float32, zeros skipped": {"jit_compile": False, "compute": "sparse"},
    "float32, XLA, zeros skipped": {"jit_compile": True, "compute": "sparse"},
    "float32, auto": {"jit_compile": False, "compute": "auto"},
}


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    base = load_config(args.config, [f"sparsity.sparsity={args.sparsity}"])
    length = base.study.sequence_length or base.model.max_sequence_length
    modes = {
        name: settings
        for name, settings in MODES.items()
        if args.sparsity or "compute" not in settings
    }
    steps = {
        name: step_of(config_from_tables({"train": settings}, base=base), length)
        for name, settings in modes.items()
    }
    times = time_in_turns(steps, args.rounds, warm_up=2)
    tokens = base.train.batch_size * length
    total = base.train.total_steps(base.model, length)
    results: dict[str, Any] = {}
    for name, seconds in times.items():
        spread = Spread.of(seconds)
        results[name] = {
            "seconds": vars(spread),
            "of_first": vars(ratios(seconds, times["float32"])),
            "tokens_per_second": tokens / spread.median,
            "hours": total * spread.median / 3600,
        }
    rows = [
        [
            name,
            f"{result['tokens_per_second']:,.0f}",
            f"{result['of_first']['median']:.2f}",
            f"{result['hours']:.2f}",
        ]
        for name, result in results.items()
    ]
    title = f"{args.config}, {args.sparsity:.0%} sparsity, {cores()} cores"
    print_table(title, ["mode", "tokens/s", "step / float32", "hours"], rows)
    print_json({**vars(args), **provenance(), "cores": cores(), "results": results})


def step_of(config: Config, length: int) -> Callable[[], None]:
    """Returns a function that takes one step on one batch."""
    model = configured_gpt(config)
    compile_for_pretraining(model, config.train, length)
    shape = config.train.batch_size, length + 1
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.model.vocabulary_size, shape, dtype=np.int32)

    def step() -> None:
        model.train_on_batch(tokens[:, :-1], tokens[:, 1:])

    return step


def cores() -> int:
    """Returns the processors that this process may use."""
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
