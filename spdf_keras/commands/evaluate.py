"""Decodes a split of a task with a fine-tuned run and scores the outputs."""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json, add_overrides, add_task

HELP = "decode a task with a run and score it"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a fine-tuned run")
    add_task(parser)
    parser.add_argument(
        "--split",
        choices=["validation", "test"],
        default="validation",
        help="the split",
    )
    parser.add_argument("--out", metavar="FILE", help="write the outputs, one per line")
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.config import config_from_tables
    from spdf_keras.console import load_tensorflow, print_json, print_table, say
    from spdf_keras.data.tasks.registry import get_task
    from spdf_keras.data.tasks.task import describe
    from spdf_keras.training.run import Run

    task = get_task(args.task)
    examples = task.read(args.data, args.split)
    source = Run.open(args.run_folder)
    config = config_from_tables({}, args.overrides, base=source.config())
    say(f"{args.split}: {describe(examples)}")
    load_tensorflow()
    from spdf_keras.evaluation import context_room, evaluate, write_lines

    result = evaluate(
        source.load_model(),
        source.tokenizer(),
        examples,
        config.decode,
        lambda done: say(f"decoded {done} of {len(examples)}"),
        context_room(config) if task.cut_context else None,
    )
    if result.cut_contexts:
        say(f"{result.cut_contexts} contexts lost their end to fit")
    if args.out:
        write_lines(args.out, result.hypotheses)
    print_table(
        f"{args.task}, {args.split}: {len(examples)} inputs",
        ["BLEU", "Signature"],
        [[f"{result.score.bleu:.2f}", result.score.signature]],
    )
    if args.json:
        print_json(vars(result.score))
