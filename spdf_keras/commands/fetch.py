"""Downloads the public files of tasks and corpora, checked byte for byte.

Other commands take DIR as their `--data`, DIR/gpt2_bpe as a `--tokenizer`, and
DIR/wikitext2/train.txt as a text to `prepare`. Files that are there and right are
kept; a download that was stopped continues where it was.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from spdf_keras.commands.arguments import add_json
from spdf_keras.data.public.collections import COLLECTIONS

HELP = "download the public files of a task"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="+",
        metavar="TASK",
        choices=list(COLLECTIONS),
        help=f"one or more of {', '.join(COLLECTIONS)}",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="a mirror with the files under the same names, such as "
        "URL/e2e/trainset.csv",
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import print_json, print_table
    from spdf_keras.data.public.download import Source
    from spdf_keras.data.public.fetch import fetch
    from spdf_keras.errors import InputError

    for name in args.names:
        if not COLLECTIONS[name].files:  # refused before anything is downloaded
            raise InputError(COLLECTIONS[name].elsewhere)
    source = Source(args.base_url)
    files: dict[Path, bool] = {}
    with _file_progress() as progress:
        for name in args.names:
            files |= fetch(name, args.out, source, progress)
    print_table(
        args.out,
        ["File", "Bytes", "State"],
        [
            [str(path), f"{path.stat().st_size:,}", "fetched" if is_new else "there"]
            for path, is_new in files.items()
        ],
    )
    for name in dict.fromkeys(args.names):
        fetched = COLLECTIONS[name]
        print(f"- {fetched.title}: {fetched.licence} ({fetched.home})")
        if fetched.elsewhere:
            print(f"- {fetched.elsewhere}")
    if args.json:
        print_json({str(path): is_new for path, is_new in files.items()})


@contextmanager
def _file_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Shows a bar for each file, or a line each where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    bars = {}
    with shown:

        def report(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = shown.add_task(name, total=total)
                if not console.is_terminal:
                    print(f"{name}: {total:,} bytes", file=sys.stderr, flush=True)
            shown.update(bars[name], completed=done)

        yield report
