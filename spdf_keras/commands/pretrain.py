"""Pre-trains a GPT on token shards, sparse or dense, into a run folder.

Started again with the same settings and folder, it continues after the newest
checkpoint, to the same bytes as if it had never stopped. SIGTERM and Ctrl-C stop it
after a step, with a checkpoint. A larger train.tokens extends a run, also a finished
one.

On several machines, give the same command on each, with another --worker, and with
--data and --out on a disk that all machines share:

    spdf-keras pretrain ... --worker 0 --workers host1:2222,host2:2222
    spdf-keras pretrain ... --worker 1 --workers host1:2222,host2:2222
"""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from spdf_keras.commands.arguments import (
    add_devices,
    add_json,
    add_overrides,
    add_resume,
    check_resume,
    read_config,
    start_devices,
)

if TYPE_CHECKING:
    from spdf_keras.config import Config

HELP = "pre-train a model on token shards"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="CONFIG", help="TOML file with the settings; see configs/"
    )
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder with token shards"
    )
    parser.add_argument(
        "--out", required=True, metavar="RUN", help="folder of the new run"
    )
    parser.add_argument(
        "--init",
        metavar="RUN",
        help="start from the weights of another run instead of random ones",
    )
    add_resume(parser)
    add_devices(parser)
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import print_json, print_table, say, step_progress
    from spdf_keras.data.shards.reader import Shards

    # The run keeps the settings of fine-tuning and decoding for later commands.
    reads = ["model", "sparsity", "train", "finetune", "decode"]
    config, shards = read_config(args, reads, args.config), Shards.open(args.data)
    config.sparsity.check_has_zeros()
    check_resume(args)
    _check_input(args, config)
    cluster = start_devices(args)
    from spdf_keras.training.pretrain import pretrain
    from spdf_keras.training.run import Run

    base = None if args.init is None else Run.open(args.init)
    with step_progress(f"pre-train {config.sparsity.sparsity:.0%} sparse") as report:
        result = pretrain(
            config,
            shards,
            args.out,
            report=report,
            cluster=cluster,
            tell=say,
            base=base,
        )
    validation = result["validation_loss"]
    print_table(
        args.out,
        ["Mean sparsity", "Steps", "Tokens", "Loss", "Validation loss", "FLOPs"],
        [
            [
                f"{100 * result['average_sparsity']:.4g}%",
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


def _check_input(args: Namespace, config: "Config") -> None:
    """Refuses to write over the config file that is an argument."""
    from spdf_keras.config import load_config
    from spdf_keras.errors import InputError
    from spdf_keras.training.run import Run

    record = os.path.join(args.out, "config.toml")
    is_record = os.path.realpath(args.config) == os.path.realpath(record)
    if not is_record or Run(Path(args.out)).checkpoints():
        return
    if load_config(args.config) != config:
        raise InputError(
            f"The config file '{args.config}' lies where the run would record its "
            "settings, which --set changes. Give a copy of it from another place."
        )
