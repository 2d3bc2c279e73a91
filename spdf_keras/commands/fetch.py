"""Downloads the public files of tasks and corpora, checked byte for byte.

Other commands take DIR as their `--data`, DIR/gpt2_bpe as a `--tokenizer`, and
DIR/wikitext2/train.txt as a text to `prepare`. Files that are there and right are
kept; a download that was stopped continues where it was.
"""

from argparse import ArgumentParser, Namespace
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
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the files"
    )
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="a mirror with the files under the same names, such as "
        "URL/e2e/trainset.csv",
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import file_progress, print_json, print_table
    from spdf_keras.data.public.download import Source
    from spdf_keras.data.public.fetch import fetch
    from spdf_keras.errors import InputError

    for name in args.names:
        if not COLLECTIONS[name].files:  # refused before anything is downloaded
            raise InputError(COLLECTIONS[name].elsewhere)
    source = Source(args.base_url)
    files: dict[Path, bool] = {}
    with file_progress() as progress:
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
