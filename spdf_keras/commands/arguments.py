"""Arguments that several commands share."""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from spdf_keras.config import STRATEGIES
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.errors import InputError

if TYPE_CHECKING:
    from spdf_keras.training.cluster import Cluster
    from spdf_keras.training.run import Run


def add_json(parser: ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument(
        "--json", action="store_true", help="end with one line of JSON on stdout"
    )


def add_overrides(parser: ArgumentParser) -> None:
    """`--set SECTION.SETTING=VALUE`."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="SECTION.SETTING=VALUE",
        action="append",
        default=[],
        help="change a setting, such as train.learning_rate=3e-4; may be repeated",
    )


def add_task(parser: ArgumentParser) -> None:
    """`--task` and `--data`."""
    add_task_name(parser)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder with the task's files"
    )


def add_task_name(parser: ArgumentParser) -> None:
    """`--task`."""
    parser.add_argument("--task", choices=list(TASKS), default="e2e", help="the task")


def add_resume(parser: ArgumentParser) -> None:
    """`--resume` and `--no-resume`."""
    parser.add_argument(
        "--resume",
        action=BooleanOptionalAction,
        default=True,
        help="go on with the run in the folder, if there is one (the default); "
        "--no-resume refuses such a folder",
    )


def check_resume(args: Namespace) -> None:
    """Refuses a folder that holds something, where --no-resume was given."""
    from spdf_keras.folders import is_empty

    out = Path(args.out)
    if args.resume or not out.exists() or (out.is_dir() and is_empty(out)):
        return
    raise InputError(
        f"The folder '{args.out}' exists, and --no-resume was given. Choose another "
        "folder, or leave --no-resume away to go on with its run."
    )


def add_devices(parser: ArgumentParser) -> None:
    """`--strategy`, `--replicas`, `--workers`, `--worker`, `--tpu`."""
    devices = parser.add_argument_group("devices")
    devices.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="one device (none, the default), all GPUs of this machine (mirrored), "
        "several machines (multi_worker, the default with --workers), or a TPU",
    )
    devices.add_argument(
        "--replicas",
        type=int,
        default=0,
        metavar="N",
        help="number of devices for --strategy mirrored",
    )
    devices.add_argument(
        "--workers", default="", metavar="HOST:PORT,...", help="all workers, in order"
    )
    devices.add_argument(
        "--worker", type=int, metavar="I", help="which of --workers this one is"
    )
    devices.add_argument("--tpu", default="", metavar="NAME", help="name or address")


def start_devices(args: Namespace) -> "Cluster":
    """Loads TensorFlow, and starts the devices that `add_devices` describes."""
    from spdf_keras.console import load_tensorflow, say

    workers = [address for address in args.workers.split(",") if address]
    several = bool(workers) or args.worker is not None
    strategy = args.strategy or ("multi_worker" if several else "none")
    # A strategy must be TensorFlow's first use.
    load_tensorflow(start=strategy == "none")
    from spdf_keras.training.cluster import start_cluster

    if strategy == "multi_worker":
        say("waiting for all workers")
    return start_cluster(strategy, args.replicas, args.worker, workers, args.tpu)


def open_run(folder: str) -> "Run":
    """Opens a run to read it, and says so where it is not finished."""
    from spdf_keras.console import say
    from spdf_keras.training.run import Run

    run = Run.open(folder)
    if caution := run.caution():
        say(caution)
    return run
