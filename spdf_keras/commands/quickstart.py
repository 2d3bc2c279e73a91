"""Runs the whole path at 0 % and at 75 % sparsity and prints one table.

It pre-trains, strips the masks, fine-tunes, decodes, scores and exports. Without --data
it uses a small corpus that it writes itself, and takes a few minutes. With --data it
uses the E2E csv files (trainset.csv, devset.csv) and WikiText-2 (wikitext2/train.txt)
in a folder. Started again with the same folder, it continues where it stopped.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json, add_overrides, read_config

HELP = "run the whole path and print one table"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        default="runs/quickstart",
        metavar="DIR",
        help="folder for all results (default: runs/quickstart)",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="folder with E2E and WikiText-2 files"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file in place of its own settings"
    )
    parser.add_argument(
        "--sparsity",
        type=float,
        nargs="+",
        default=[0.0, 0.75],
        metavar="S",
        help="sparsities to compare (default: 0 0.75)",
    )
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from pathlib import Path

    from spdf_keras.config import check_sparsity
    from spdf_keras.console import (
        load_tensorflow,
        print_json,
        print_table,
        say,
        step_progress,
    )

    name = "quickstart_e2e.toml" if args.data else "quickstart.toml"
    file = args.config or Path(__file__).parents[1] / "configs" / name
    reads = ["model", "sparsity", "train", "finetune", "decode"]
    instead = {"sparsity.sparsity": "--sparsity"}
    config = read_config(args, reads, str(file), instead=instead)
    for sparsity in args.sparsity:
        check_sparsity(sparsity)
    load_tensorflow()
    from spdf_keras.data.samples.corpora import Corpora
    from spdf_keras.folders import claim
    from spdf_keras.study.quickstart import Quickstart
    from spdf_keras.study.quickstart_report import COLUMNS, result_row, write_report

    out = Path(args.out)
    with claim(out, "quickstart"):
        corpora = Corpora.find(args.data) if args.data else Corpora.write(out / "data")
        quickstart = Quickstart(out, config, corpora, say, step_progress)
        results = [quickstart.run(sparsity) for sparsity in args.sparsity]
        report = write_report(out, config, corpora, results)
    rows = [result_row(result) for result in results]
    print_table(f"{out}: {corpora.title}", COLUMNS, rows)
    print(f"BLEU of the fine-tuned model, validation set: {results[0]['signature']}")
    print(f"Report with the loss curves: {report}")
    if args.json:
        print_json(results)
