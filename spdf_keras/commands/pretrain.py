"""Pre-trains a GPT on token shards, sparse or dense, into a run folder.

Started again with the same settings and folder, it goes on after the newest
checkpoint, to the same bytes as if it had never stopped. SIGTERM and Ctrl-C stop it
after a step, with a checkpoint.

On several machines, the same command is given on each but for --worker, with --data
and --out on a disk that all share:

    spdf-keras pretrain ... --worker 0 --workers host1:2222,host2:2222
    spdf-keras pretrain ... --worker 1 --workers host1:2222,host2:2222
"""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path

from spdf_keras.commands.arguments import add_json, add_overrides, read_config
from spdf_keras.config import STRATEGIES

HELP = "pre-train a model on token shards"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a TOML file; see configs/")
    parser.add_argument("--data", required=True, metavar="DIR", help="token shards")
    parser.add_argument("--out", required=True, metavar="RUN", help="the run folder")
    parser.add_argument(
        "--resume",
        action=BooleanOptionalAction,
        default=True,
        help="go on with the run in the folder, if there is one (the default); "
        "--no-resume refuses such a folder",
    )
    devices = parser.add_argument_group("devices")
    devices.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="one device (none, the default), all GPUs of this machine, several "
        "machines (the default with --workers), or a TPU",
    )
    devices.add_argument(
        "--replicas", type=int, default=0, metavar="N", help="devices of mirrored"
    )
    devices.add_argument(
        "--workers", default="", metavar="HOST:PORT,...", help="all workers, in order"
    )
    devices.add_argument(
        "--worker", type=int, metavar="I", help="which of --workers this one is"
    )
    devices.add_argument("--tpu", default="", metavar="NAME", help="name or address")
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import (
        load_tensorflow,
        print_json,
        print_table,
        say,
        step_progress,
    )
    from spdf_keras.data.shards import Shards
    from spdf_keras.errors import InputError

    # What fine-tuning and decoding read is kept in the run for them.
    reads = ["model", "sparsity", "train", "finetune", "decode"]
    config, shards = read_config(args, reads, args.config), Shards.open(args.data)
    if not args.resume and Path(args.out).exists():
        raise InputError(
            f"The folder '{args.out}' exists, and --no-resume was given. Choose "
            "another folder, or leave --no-resume away to go on with its run."
        )
    workers = [address for address in args.workers.split(",") if address]
    several = bool(workers) or args.worker is not None
    strategy = args.strategy or ("multi_worker" if several else "none")
    # A strategy must be TensorFlow's first use.
    load_tensorflow(start=strategy == "none")
    from spdf_keras.training.cluster import start_cluster
    from spdf_keras.training.pretrain import pretrain

    if strategy == "multi_worker":
        say("waiting for all workers")
    cluster = start_cluster(strategy, args.replicas, args.worker, workers, args.tpu)
    with step_progress(f"pre-train {config.sparsity.sparsity:.0%} sparse") as report:
        result = pretrain(config, shards, args.out, report, cluster, say)
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
