"""Scores a file of outputs against references; no model is needed.

References are one file with blank-line-separated blocks, a block per output, or
several files with a line per output each.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json, add_task_name

HELP = "score a file of outputs"


def add_arguments(parser: ArgumentParser) -> None:
    add_task_name(parser)
    parser.add_argument(
        "--hypotheses", required=True, metavar="FILE", help="an output per line"
    )
    parser.add_argument(
        "--references", required=True, nargs="+", metavar="FILE", help="references"
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import print_json, print_table
    from spdf_keras.data.corpus import open_text
    from spdf_keras.data.tasks.references import read_references
    from spdf_keras.metrics.bleu import corpus_bleu

    hypotheses = open_text(args.hypotheses).splitlines()
    score = corpus_bleu(hypotheses, read_references(args.references))
    print_table(
        f"{args.task}: {len(hypotheses)} outputs",
        ["BLEU", "Signature"],
        [[f"{score.bleu:.2f}", score.signature]],
    )
    if args.json:
        print_json(vars(score))
