"""Pre-trains a GPT on token shards, sparse or dense, into a run folder.

Started again with the same settings and folder, it goes on after the newest
checkpoint.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json, add_overrides

HELP = "pre-train a model on token shards"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a TOML file; see configs/")
    parser.add_argument("--data", required=True, metavar="DIR", help="token shards")
    parser.add_argument("--out", required=True, metavar="RUN", help="the run folder")
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.config import load_config
    from spdf_keras.console import (
        load_tensorflow,
        print_json,
        print_table,
        step_progress,
    )
    from spdf_keras.data.shards import Shards

    config, shards = load_config(args.config, args.overrides), Shards.open(args.data)
    load_tensorflow()
    from spdf_keras.training.pretrain import pretrain

    with step_progress(f"pre-train {config.sparsity.sparsity:.0%} sparse") as report:
        result = pretrain(config, shards, args.out, report)
    validation = result["validation_loss"]
    print_table(
        args.out,
        ["Sparsity", "Steps", "Tokens", "Loss", "Validation loss", "FLOPs"],
        [
            [
                f"{config.sparsity.sparsity:.0%}",
                f"{result['steps']:,}",
                f"{result['tokens']:,}",
                f"{result['loss']:.4f}",
                "none" if validation is None else f"{validation:.4f}",
                f"{result['flops']:.3g}",
            ]
        ],
    )
    if args.json:
        print_json(result)
