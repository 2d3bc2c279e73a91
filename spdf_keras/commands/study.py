"""Runs the paper's protocol as one job, and ends in its report.

For each sparsity and seed: pre-train, strip the masks, fine-tune at each point of a
grid, take the best by the validation split, decode and score the test split; also with
the masks kept, as a baseline. Started again with the same folder, it goes on where it
was stopped.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json, add_overrides

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

    from spdf_keras.config import load_config
    from spdf_keras.console import load_tensorflow, print_json, say, step_progress

    config = load_config(args.config, args.overrides)
    load_tensorflow()
    from spdf_keras.report.write import write_report
    from spdf_keras.study.study import Study

    out = Path(args.out)
    Study(out, config, args.data, say, step_progress, args.shards).run()
    report = write_report([out], out / "report")
    print(f"Report: {report.html}, {report.markdown}")
    if args.json:
        print_json({"html": str(report.html), "markdown": str(report.markdown)})
