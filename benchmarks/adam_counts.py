"""Does an Adam count of their own keep weights that grow from a spike of the loss?

    python benchmarks/adam_counts.py --out docs/results/adam_counts.png

Two models that differ in `own_counts` alone are trained on the same batches by RigL
with `beta_2` 0.999, and the loss is averaged over the updates, by steps after an
update. The corpus is the embedded one of the quickstart.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from spdf_keras.config import Config, SparsityConfig, load_config
from spdf_keras.console import print_json
from spdf_keras.data.samples.restaurants import pretraining_text
from spdf_keras.data.shards.prepare import write_shards
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.provenance import provenance
from spdf_keras.report.page.drawing import figure_style
from spdf_keras.training.pretrain import pretrain
from spdf_keras.training.run import Run


def main() -> None:
    """Trains, draws the figure, and prints one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/quickstart.toml")
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--interval", type=int, default=50)
    parser.add_argument("--drop-fraction", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    args = parser.parse_args()

    lines = [f"train.tokens={args.tokens}", "train.compute=dense"]
    config = load_config(args.config, lines)
    losses: dict[bool, list[np.ndarray]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        texts = list(pretraining_text(5000, seed=0))
        tokenizer = Tokenizer.train(texts, config.model.vocabulary_size)
        length = config.model.max_sequence_length
        write_shards(texts, tokenizer, length, Path(folder) / "shards", 0.05)
        shards = Shards.open(Path(folder) / "shards")
        for seed in range(args.seeds):
            for own in losses:
                run = Path(folder) / f"{own}-{seed}"
                losses[own].append(train(args, config, shards, run, seed, own))
    curves = {own: after_updates(args, runs) for own, runs in losses.items()}
    draw(args.out, curves)
    excess = {
        str(own).lower(): float((curve - curve[0]).max())
        for own, curve in curves.items()
    }
    print(f"largest rise of the loss after an update: {excess}")
    settings = {**vars(args), "out": args.out.name}
    print_json({**settings, **provenance(), "rise": excess})


def train(
    args: argparse.Namespace,
    config: Config,
    shards: Shards,
    folder: Path,
    seed: int,
    own: bool,
) -> np.ndarray:
    """Returns the loss of every step."""
    masks = SparsityConfig(
        0.75,
        seed,
        method="rigl",
        interval=args.interval,
        drop_fraction=args.drop_fraction,
        drop_schedule="constant",
        own_counts=own,
    )
    settings = dataclasses.replace(config.train, seed=seed, beta_2=0.999)
    pretrain(
        dataclasses.replace(config, sparsity=masks, train=settings), shards, folder
    )
    return np.array([r["loss"] for r in Run(folder).metrics() if "loss" in r])


def after_updates(args: argparse.Namespace, runs: list[np.ndarray]) -> np.ndarray:
    """Returns the mean loss by steps after an update, over updates and seeds.

    The loss falls in the course of an interval too, so the line through the last steps
    of neighbouring intervals is taken out.
    """
    pieces = []
    for losses in runs:
        last = len(losses) * 3 // 4
        for at in range(2 * args.interval, last - args.interval, args.interval):
            # The steps at - 5 to at, before the update, are the reference.
            piece = losses[at - 5 : at + args.interval - 5]
            start, end = (
                losses[at - 10 : at].mean(),
                losses[at + args.interval - 10 : at + args.interval].mean(),
            )
            line = start + (end - start) * np.linspace(0, 1, len(piece))
            pieces.append(piece - line)
    return np.mean(pieces, axis=0)


def draw(file: Path, curves: dict[bool, np.ndarray]) -> None:
    """Draws both curves."""
    from matplotlib.figure import Figure

    with figure_style("adam-counts"):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        for own, curve in curves.items():
            name = "a count of their own" if own else "the count of all steps"
            axes.plot(np.arange(len(curve)) - 4, curve, label=name)
        axes.axvline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axes.set(xlabel="steps after an update", ylabel="loss over its trend, nats")
        axes.legend(title="weights that grow have")
        figure.savefig(file, dpi=160)


if __name__ == "__main__":
    main()
