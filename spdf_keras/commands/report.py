"""Writes a report of runs, beside the numbers of the paper, as HTML and as Markdown.

RUN is a run, or a folder with runs somewhere below it, such as a study. Runs that
differ in their seeds alone are shown as mean and standard deviation.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json

HELP = "write tables and figures of runs, beside the numbers of the paper"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, or a folder with runs below it",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder for report.html, report.md with its pictures, and runs.csv",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with the tasks' files: differences of scores get intervals over "
        "the test inputs",
    )
    parser.add_argument(
        "--all-scores",
        action="store_true",
        help="intervals over inputs for METEOR, TER and ROUGE-L too, which takes "
        "10 to 20 seconds a run",
    )
    parser.add_argument("--title", metavar="TEXT", help="heading of the report")
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import print_json, print_table, say
    from spdf_keras.errors import InputError
    from spdf_keras.report.content.labels import model_labels
    from spdf_keras.report.content.score_tables import summary_table
    from spdf_keras.report.runs.groups import evaluation_groups, pretraining_groups
    from spdf_keras.report.write import TITLE, write_report

    title = TITLE if args.title is None else args.title
    if args.all_scores and args.data is None:
        raise InputError(
            "`--all-scores` is of intervals over inputs, which need `--data`: name the "
            "folder with the tasks' files."
        )
    report = write_report(
        args.runs,
        args.out,
        title,
        data=args.data,
        all_scores=args.all_scores,
        tell=lambda done, total: say(f"resampled {done} of {total} outputs files"),
    )
    evaluations, labels = evaluation_groups(report.runs), model_labels(report.runs)
    pretraining = pretraining_groups(report.runs)
    if pretraining or evaluations:
        table = summary_table(pretraining, evaluations, labels)
        print_table(table.caption, table.columns, [row.cells for row in table.rows])
    print(f"The report: {report.html}\nAs Markdown: {report.markdown}")
    print(f"Numbers of each run: {report.table}")
    if args.json:
        print_json(report.as_json())
