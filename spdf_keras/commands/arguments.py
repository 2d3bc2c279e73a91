"""Arguments that several commands share."""

from argparse import ArgumentParser

from spdf_keras.data.tasks.registry import TASKS


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
