"""Exports a run's model to a file that runs without this package."""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json

HELP = "export a run's model"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run")
    parser.add_argument(
        "--format",
        required=True,
        choices=["saved_model", "tflite"],
        help="what to write",
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="TFLite: store only the weights that are kept",
    )
    parser.add_argument("--out", required=True, metavar="PATH", help="file or folder")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an export that is there"
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import load_tensorflow, print_table
    from spdf_keras.errors import InputError
    from spdf_keras.training.run import Run

    if args.sparse and args.format != "tflite":
        raise InputError("`--sparse` is for `--format tflite`: a SavedModel is dense.")
    source = Run.open(args.run_folder)
    load_tensorflow()
    from spdf_keras.export import to_saved_model, to_tflite

    model = source.load_model()
    if args.format == "saved_model":
        card = to_saved_model(model, args.out, args.overwrite)
    else:
        card = to_tflite(model, args.out, sparse=args.sparse, overwrite=args.overwrite)
    print_table(args.run_folder, card.columns, [card.row()])
    for note in card.notes:
        print(f"- {note}")
    if args.json:
        print(card.to_json())
