"""Computes the perplexity of text files under a run's model.

Every file is one document. Its tokens are predicted in windows as lm-evaluation-harness
predicts them, by default in windows that share one token; `--stride` lets them overlap.
"""

from argparse import ArgumentParser, Namespace
from functools import reduce
from operator import add

from spdf_keras.commands.arguments import add_json, open_run

HELP = "perplexity of texts under a run's model"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of the run")
    parser.add_argument(
        "texts", metavar="TEXT", nargs="+", help="text file, compressed or not"
    )
    parser.add_argument(
        "--context-length",
        type=int,
        metavar="N",
        help="tokens of a window (default: the model's context)",
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="tokens that each window after the first predicts; a smaller number gives "
        "each token more context and takes longer (default: those of a window)",
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import (
        load_tensorflow,
        print_json,
        print_table,
        work_progress,
    )
    from spdf_keras.evaluation.perplexity import (
        check_windows,
        perplexities,
        read_texts,
    )

    texts = read_texts(args.texts)
    source = open_run(args.run_folder)
    longest = source.config().model.max_sequence_length
    context = longest if args.context_length is None else args.context_length
    check_windows(context, args.stride, longest)
    load_tensorflow()
    from spdf_keras.model.likelihood import Likelihood

    likelihood = Likelihood(source.load_model())
    tokenizer = source.tokenizer()
    with work_progress("perplexity", "characters") as report:
        found = perplexities(likelihood, tokenizer, texts, context, args.stride, report)
    rows = dict(found)
    if len(rows) > 1:
        rows["all"] = reduce(add, found.values())
    names = next(iter(found.values())).scores
    print_table(
        f"Perplexity: windows of {context} tokens, each predicts "
        f"{args.stride or context}",
        ["Text", *names, "tokens"],
        [
            [name, *map(_shown, row.scores.values()), f"{row.tokens:,}"]
            for name, row in rows.items()
        ],
    )
    if args.json:
        print_json(
            {
                "context_length": context,
                "stride": args.stride or context,
                "texts": {name: row.document() for name, row in found.items()},
                "all": reduce(add, found.values()).document(),
            }
        )


def _shown(score: float) -> str:
    return f"{score:.4f}" if score < 1e6 else f"{score:.4g}"
