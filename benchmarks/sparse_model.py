"""How much faster do models decode if zeros are skipped?

    python benchmarks/sparse_model.py --sparsity 0.75 0.5 --batch 1 8

It times `generate` on prompts of 32 tokens, with zeros multiplied and skipped. Models
take turns in one process; a ratio compares two calls of one round; the table has
medians and quartiles. Training steps are measured by `step.py`, single products by
`spdf-keras benchmark matmul`.
"""

import argparse
from functools import partial
from typing import Any

import numpy as np

from spdf_keras.console import print_json
from spdf_keras.measuring.turns import Spread, ratios, time_in_turns
from spdf_keras.provenance import provenance


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2_small", help="a preset")
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0.5, 0.75])
    parser.add_argument(
        "--batch",
        type=int,
        nargs="*",
        default=[1],
        help="prompts of a call",
    )
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    results = []
    for sparsity in args.sparsity:
        results += decode(args, sparsity)
    print_json({**vars(args), **provenance(), "results": results})


def decode(args: argparse.Namespace, sparsity: float) -> list[dict[str, Any]]:
    """Times continuations of random prompts, and counts the tokens that agree."""
    from spdf_keras import build_gpt

    models = {
        name: build_gpt(args.model, sparsity, compute=compute)
        for name, compute in (("masked", "dense"), ("sparse", "sparse"))
    }
    random = np.random.default_rng(0)
    results = []
    for batch in args.batch:
        prompts = random.integers(2000, size=(batch, 32)).tolist()
        outputs: dict[str, list[list[int]]] = {}
        calls = {
            name: partial(_continue, name, model, prompts, args.new_tokens, outputs)
            for name, model in models.items()
        }
        times = time_in_turns(calls, args.rounds)
        equal = np.mean(np.array(outputs["masked"]) == np.array(outputs["sparse"]))
        title = f"decode, {sparsity:.0%} zeros, batch {batch}, {equal:.0%} equal tokens"
        speedup = ratios(times["masked"], times["sparse"])
        results.append(show(title, times, {"faster": speedup}))
    return results


def _continue(
    name: str,
    model: Any,
    prompts: list[list[int]],
    new_tokens: int,
    outputs: dict[str, list[list[int]]],
) -> None:
    outputs[name] = model.generate(prompts, new_tokens, batch_size=len(prompts))


def show(
    title: str, seconds: dict[str, list[float]], speeds: dict[str, Spread]
) -> dict[str, Any]:
    """Prints a row of the table, and returns its content."""
    cells = (
        f"{name} {speed.show(form='.2f', unit='x')}" for name, speed in speeds.items()
    )
    print(f"| {title} | {' | '.join(cells)} |", flush=True)
    return {
        "title": title,
        "seconds": {name: Spread.of(times).median for name, times in seconds.items()},
        "ratios": {name: vars(speed) for name, speed in speeds.items()},
    }


if __name__ == "__main__":
    main()
