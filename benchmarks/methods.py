"""Which method of sparsity trains best at equal operations?

    python benchmarks/methods.py --out runs/methods

Every method pre-trains the model of the quickstart on its corpus, with as many tokens
as the operations of static masks at 75 % allow: a method that is denser on average
gets fewer. Seeds give initial weights, masks and data order together. A run that was
stopped goes on. The table has the validation loss after the last step, and the
difference to static masks of the same seed.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from spdf_keras.config import Config, SparsityConfig, load_config
from spdf_keras.console import print_json, print_table, say
from spdf_keras.data.samples.restaurants import pretraining_text
from spdf_keras.data.shards.prepare import write_shards
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.provenance import provenance
from spdf_keras.study.operations import with_equal_operations
from spdf_keras.training.pretrain import pretrain
from spdf_keras.training.run import Run

METHODS: dict[str, dict[str, Any]] = {
    "static": {},
    "static, erk": {"distribution": "erk"},
    "set": {"method": "set"},
    "rigl": {"method": "rigl"},
    "gmp": {"method": "gmp"},
    "redense": {"method": "redense", "stages": (0.5, 0.0), "shares": (0.5, 0.8)},
    "dense": {"sparsity": 0.0},
}


def main() -> None:
    """Trains, and prints a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/quickstart.toml")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of static masks")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--interval", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    args = parser.parse_args()

    base = load_config(args.config, ["train.compute=dense"])
    shards = corpus(args, base)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in args.methods}
    for seed in range(args.seeds):
        for name in args.methods:
            config = configured(args, base, shards, name, seed)
            folder = args.out / f"{name.replace(', ', '_')}-{seed}"
            result = Run(folder).result()
            if result is None:
                result = pretrain(config, shards, folder, tell=say)
            results[name].append(result)
    rows = [row(name, results) for name in args.methods]
    print_table("Equal operations", list(rows[0]), [list(r.values()) for r in rows])
    settings = {**vars(args), "out": args.out.name}
    print_json({**settings, **provenance(), "results": results})


def corpus(args: argparse.Namespace, base: Config) -> Shards:
    """Prepares the embedded corpus, unless that was done."""
    folder = args.out / "shards"
    if not folder.exists():
        texts = list(pretraining_text(args.texts, seed=0))
        tokenizer = Tokenizer.train(texts, base.model.vocabulary_size)
        args.out.mkdir(parents=True, exist_ok=True)
        write_shards(texts, tokenizer, base.model.max_sequence_length, folder, 0.05)
    return Shards.open(folder)


def configured(
    args: argparse.Namespace, base: Config, shards: Shards, name: str, seed: int
) -> Config:
    """Returns the settings of a run that takes the operations of static masks."""
    static = {"sparsity": 0.75, "seed": seed, "interval": args.interval}
    train = dataclasses.replace(base.train, tokens=args.tokens, seed=seed)
    whole = dataclasses.replace(base, sparsity=SparsityConfig(**static), train=train)
    masks = SparsityConfig(**{**static, **METHODS[name]})
    own = dataclasses.replace(whole, sparsity=masks)
    return with_equal_operations(own, whole, shards.context_length)


def row(name: str, results: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Returns the cells of one method."""
    own, static = results[name], results.get("static", [])
    losses = [result["validation_loss"] for result in own]
    pairs = zip(own, static, strict=False)  # without static runs there are none
    gaps = [a["validation_loss"] - b["validation_loss"] for a, b in pairs]
    return {
        "method": name,
        "average density": f"{1 - own[0]['average_sparsity']:.3f}",
        "tokens": f"{own[0]['tokens']:,}",
        "operations": f"{own[0]['flops']:.3g}",
        "validation loss": spread(losses),
        "less static": spread(gaps) if gaps else "-",
        "seeds": str(len(losses)),
    }


def spread(values: list[float]) -> str:
    """Returns mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


if __name__ == "__main__":
    main()
