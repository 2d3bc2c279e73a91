"""Runs the paper's protocol as one job, and ends in its report.

For each sparsity and seed: pre-train, strip the masks, fine-tune at each point of a
grid, take the best by the validation split, decode and score the test split; also with
the masks kept, as a baseline. Started again with the same folder, it goes on where it
was stopped.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json, add_overrides, read_config

_READS = ("model", "sparsity", "train", "finetune", "decode", "study")
# Settings that each stage of a study has from the study's own.
_INSTEAD = {
    "sparsity.sparsity": "study.sparsities",
    "sparsity.seed": "study.seeds",
    "train.seed": "study.seeds",
    "finetune.seed": "study.seeds",
    "finetune.batch_size": "study.batch_sizes",
    "finetune.learning_rate": "study.learning_rates",
    "finetune.keep_masks": "study.sparse_finetuning",
}

HELP = "run the paper's protocol: sparsities x seeds, search, test, report"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="CONFIG", help="a TOML file with [study]; see configs/"
    )
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder with corpus and task"
    )
    parser.add_argument(
        "--shards", metavar="DIR", help="pre-train on these, not on `study.corpus`"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the study's folder"
    )
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from pathlib import Path

    from spdf_keras.console import load_tensorflow, print_json, say, step_progress

    config = read_config(args, _READS, args.config, instead=_INSTEAD)
    load_tensorflow()
    from spdf_keras.report.write import write_report
    from spdf_keras.study.study import Study

    out = Path(args.out)
    Study(out, config, args.data, say, step_progress, args.shards).run()
    report = write_report([out], out / "report")
    print(f"Report: {report.html}, {report.markdown}")
    if args.json:
        print_json({"html": str(report.html), "markdown": str(report.markdown)})
