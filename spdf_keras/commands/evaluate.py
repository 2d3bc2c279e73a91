"""Decodes a split of a task with a fine-tuned run and scores the outputs.

The scores are those of the paper's tables, in the units of the official programs; the
score of the Curation Corpus is perplexity. The run records them for `report`.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from spdf_keras.commands.arguments import (
    add_json,
    add_overrides,
    add_task,
    open_run,
    read_config,
)

HELP = "decode a task with a run and score it"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a fine-tuned run")
    add_task(parser)
    parser.add_argument(
        "--split",
        choices=["validation", "test"],
        default="validation",
        help="split to decode (default: validation)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="file for the outputs, one per line"
    )
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import load_tensorflow, print_json, print_table, say
    from spdf_keras.data.tasks.registry import get_task
    from spdf_keras.data.tasks.task import describe
    from spdf_keras.files import replace_file

    task = get_task(args.task)
    examples = task.read(args.data, args.split)
    source = open_run(args.run_folder)
    config = read_config(args, task.decoding_settings, base=source.config())
    say(f"{args.split}: {describe(examples)}")
    load_tensorflow()
    from spdf_keras.evaluation.record import evaluate_run

    record = evaluate_run(
        source,
        task,
        args.split,
        examples,
        config,
        lambda done: say(f"decoded {done} of {len(examples)}"),
    )
    if record["cut_contexts"]:
        say(f"{record['cut_contexts']} contexts lost their end to fit")
    file = source.evaluation_file(task.name, args.split)
    if args.out:
        replace_file(Path(args.out), file.with_suffix(".txt").read_text("utf-8"))
    parts = {"all": record["scores"], **record["parts"]}
    print_table(
        f"{args.task}, {args.split}: {len(examples)} inputs, {record['protocol']}",
        ["Part", *record["scores"]],
        [
            [part, *("none" if v is None else f"{v:.4f}" for v in scores.values())]
            for part, scores in parts.items()
        ],
    )
    for sentence in record["errors"].values():
        say(sentence)
    say(f"recorded in '{file}'")
    if args.json:
        print_json({key: v for key, v in record.items() if key != "samples"})
