"""Arguments that several commands share."""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spdf_keras.config import STRATEGIES
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.errors import InputError
from spdf_keras.values import listed

if TYPE_CHECKING:
    from spdf_keras.config import Config
    from spdf_keras.training.cluster import Cluster
    from spdf_keras.training.run import Run


def add_json(parser: ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one line of JSON at the end of stdout",
    )


def add_overrides(parser: ArgumentParser) -> None:
    """`--set SECTION.SETTING=VALUE`."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="SECTION.SETTING=VALUE",
        action="append",
        default=[],
        help="change one setting, such as train.learning_rate=3e-4; may be repeated",
    )


def add_task(parser: ArgumentParser) -> None:
    """`--task` and `--data`."""
    add_task_name(parser)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder with the files of the task"
    )


def add_task_name(parser: ArgumentParser) -> None:
    """`--task`."""
    parser.add_argument(
        "--task", choices=list(TASKS), default="e2e", help="the task (default: e2e)"
    )


def add_resume(parser: ArgumentParser) -> None:
    """`--resume` and `--no-resume`."""
    parser.add_argument(
        "--resume",
        action=BooleanOptionalAction,
        default=True,
        help="continue a run that the folder of --out holds (the default); "
        "--no-resume refuses a folder that holds something",
    )


def check_resume(args: Namespace) -> None:
    """Refuses a folder that holds something if --no-resume is given."""
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
        help="devices to train on: none is one device (the default), mirrored all GPUs "
        "of this machine, multi_worker several machines (the default with --workers), "
        "tpu a TPU",
    )
    devices.add_argument(
        "--replicas",
        type=int,
        default=0,
        metavar="N",
        help="number of devices for --strategy mirrored (default: all GPUs)",
    )
    devices.add_argument(
        "--workers",
        default="",
        metavar="HOST:PORT,...",
        help="addresses of all workers, in the same order on each",
    )
    devices.add_argument(
        "--worker",
        type=int,
        metavar="I",
        help="index of this machine in --workers, from 0",
    )
    devices.add_argument(
        "--tpu",
        default="",
        metavar="NAME",
        help="name or address of the TPU for --strategy tpu",
    )


def start_devices(args: Namespace) -> "Cluster":
    """Loads TensorFlow, and starts the devices that `add_devices` describes."""
    from spdf_keras.console import load_tensorflow, say

    workers = [address for address in args.workers.split(",") if address]
    several = bool(workers) or args.worker is not None
    strategy = args.strategy or ("multi_worker" if several else "none")
    # A strategy must be set up before any device is used.
    load_tensorflow(start=strategy == "none")
    from spdf_keras.training.cluster import start_cluster

    if strategy == "multi_worker":
        say("waiting for all workers")
    return start_cluster(strategy, args.replicas, args.worker, workers, args.tpu)


def open_run(folder: str) -> "Run":
    """Opens a run to read it; a sentence warns if the run is not finished."""
    from spdf_keras.console import say
    from spdf_keras.training.run import Run

    run = Run.open(folder)
    if caution := run.caution():
        say(caution)
    return run


def read_config(
    args: Namespace,
    reads: Sequence[str],
    file: str | None = None,
    base: "Config | None" = None,
    instead: Mapping[str, str] | None = None,
) -> "Config":
    """Reads the settings of a command: those of `base`, of its file, and of `--set`.

    A setting that the command does not read is refused in `--set`. In a file it may
    stay, because one file may hold a whole experiment, but a sentence names it.

    Args:
        args: Has `command` and `overrides`.
        reads: The tables that the command reads, such as `decode`, and single
            settings of others, such as `finetune.sequence_length`.
        file: The config file, if any.
        base: The settings of the run that the command continues; the defaults if None.
        instead: Settings of these tables that the command sets itself, each with the
            origin of its value.

    Raises:
        InputError: If a setting is unknown, of a wrong type, out of range or not read.
    """
    from spdf_keras.config import config_from_tables, parse_override, read_tables
    from spdf_keras.console import say

    instead = instead or {}
    command = f"spdf-keras {args.command}"

    def is_read(section: str, setting: str) -> bool:
        name = f"{section}.{setting}"
        return (section in reads or name in reads) and name not in instead

    for line in args.overrides:
        section, setting, _ = parse_override(line)
        if not is_read(section, setting):
            name = f"{section}.{setting}"
            reason = f"it reads {_named(reads)}"
            if name in instead:
                reason = f"there it comes from {instead[name]}"
            raise InputError(
                f"`--set {name}` changes nothing in `{command}`: {reason}. Leave it "
                "out."
            )
    tables = read_tables(file) if file else {}
    used = {name: table for name, table in tables.items() if name in reads}
    rest = {name: table for name, table in tables.items() if name not in reads}
    if base is None:
        config = config_from_tables(tables, args.overrides)
    else:
        config_from_tables(rest)  # unused tables are checked all the same
        config = config_from_tables(used, args.overrides, base)
    unused = [f"[{name}]" for name in rest]
    unused += [f"{n}.{key}" for n in used for key in used[n] if not is_read(n, key)]
    if rest and not used:
        raise InputError(
            f"'{file}' must have settings that `{command}` reads, which are those of "
            f"{_named(reads)}. Received: {', '.join(unused)} alone."
        )
    if unused:
        say(f"this command does not use {', '.join(unused)} of '{file}'")
    return config


def _named(reads: Sequence[str]) -> str:
    return listed([f"`{name}`" if "." in name else f"[{name}]" for name in reads])
