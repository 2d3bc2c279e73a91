"""Merges the adapter of a fine-tuning with LoRA into its weights, as a new run.

    spdf-keras merge RUN --out RUN

The new run has weights and no adapter, and every command takes it. The merged matrices
have no zeros: a sparse base becomes dense. With --keep-masks the adapter's product is
masked, so the zeros stay, but the new run computes another function than the one that
was trained.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json, open_run

HELP = "merge the adapter of a run into its weights"
OPTIONS = {"folder": "--out"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "run_folder", metavar="RUN", help="folder of a fine-tuning with LoRA"
    )
    parser.add_argument(
        "--out", required=True, metavar="RUN", help="folder of the new run"
    )
    parser.add_argument(
        "--keep-masks",
        action="store_true",
        help="keep the masks, which leaves out most of the adapter's product",
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import load_tensorflow, print_json, print_table, say

    source = open_run(args.run_folder)
    load_tensorflow()
    from spdf_keras.training.merging import merge_run

    result = merge_run(source, args.out, keep_masks=args.keep_masks, tell=say)
    print_table(
        args.out,
        ["Sparsity before", "Sparsity", "Kept of the adapter"],
        [
            [
                f"{result['sparsity_before']:.0%}",
                f"{result['sparsity']:.0%}",
                f"{result['kept']:.0%}",
            ]
        ],
    )
    if args.json:
        print_json(result)
