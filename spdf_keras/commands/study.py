"""Runs the paper's protocol as one job, and writes its report.

For each sparsity and seed it pre-trains, strips the masks, fine-tunes on each task at
each point of a grid, chooses the best point on the validation split, and decodes and
scores the test split. It does the same with the masks kept, as a baseline. Started
again with the same folder, it continues where it stopped. Started several times at
once, the processes share the work.
"""

import sys
from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json, add_overrides, read_config

_READS = ("model", "sparsity", "train", "finetune", "decode", "study")
# Settings that the study sets itself, and the settings that they come from.
_INSTEAD = {
    "sparsity.sparsity": "study.sparsities",
    "sparsity.seed": "study.seeds",
    "train.seed": "study.seeds",
    "finetune.seed": "study.seeds",
    "finetune.batch_size": "study.batch_sizes",
    "finetune.learning_rate": "study.learning_rates",
    "finetune.keep_masks": "study.sparse_finetuning",
    "finetune.lora_rank": "the protocol, which trains all weights",
}

HELP = "run the paper's protocol: sparsities x seeds, search, test, report"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="CONFIG", help="TOML file with [study] settings; see configs/"
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="folder with the files of the corpus and of the tasks",
    )
    parser.add_argument(
        "--shards",
        metavar="DIR",
        help="token shards to pre-train on, in place of study.corpus",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder of the study"
    )
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from pathlib import Path

    from spdf_keras.console import (
        load_tensorflow,
        print_json,
        say,
        start_anew,
        step_progress,
    )

    config = read_config(args, _READS, args.config, instead=_INSTEAD)
    load_tensorflow()
    from spdf_keras.report.write import write_report
    from spdf_keras.study.study import Study

    out = Path(args.out)
    # A program that calls `main` by itself must not be started anew.
    is_command = sys.argv[1:2] == ["study"]
    renew = start_anew if is_command else lambda: None
    Study(out, config, args.data, say, step_progress, args.shards, renew).run()
    report = write_report([out], out / "report", data=args.data)
    print(f"Report: {report.html}, {report.markdown}")
    print(f"Numbers of each run: {report.table}")
    if args.json:
        print_json(report.as_json())
