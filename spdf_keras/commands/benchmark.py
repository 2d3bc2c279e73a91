"""Measures exported artefacts side by side, in one alternating run.

    spdf-keras benchmark dense.tflite sparse.tflite gpt_xla gpt_saved_model

Each artefact runs in a process of its own, with its runtime alone, and once more with
the library of this package that skips its zeros, where its card names one. The table
has medians, and quartiles in brackets. An artefact that cannot be measured gets a
sentence after the table of the others, and the exit status is not 0; with --json, its
object has `path` and `error`.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from spdf_keras.commands.arguments import add_json

HELP = "measure exported artefacts side by side"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "artefacts", metavar="ARTEFACT", nargs="+", help=".tflite file or folder"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="rounds of turns (default: 5)",
    )
    parser.add_argument(
        "--prompt-tokens",
        type=int,
        default=16,
        metavar="N",
        help="tokens of the prompt (default: 16)",
    )
    parser.add_argument(
        "--new-tokens",
        type=int,
        default=32,
        metavar="N",
        help="tokens to generate (default: 32)",
    )
    parser.add_argument(
        "--no-libraries",
        dest="with_libraries",
        action="store_false",
        help="measure without the libraries of this package that skip zeros",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write benchmark.csv, .json and .png there"
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from contextlib import nullcontext
    from dataclasses import asdict

    from spdf_keras.console import print_json, print_table, say
    from spdf_keras.errors import ExportError, InputError
    from spdf_keras.measuring.artefacts.measure import Row, compare_artefacts
    from spdf_keras.measuring.artefacts.store import saving

    failed: list[tuple[str | Path, Exception]] = []
    with saving(args.out) if args.out else nullcontext() as write:
        rows = compare_artefacts(
            args.artefacts,
            args.rounds,
            args.prompt_tokens,
            args.new_tokens,
            with_libraries=args.with_libraries,
            report=lambda done, total: say(f"round {done} of {total}"),
            on_failure=lambda *failure: failed.append(failure),
        )
        failed.sort(key=lambda failure: args.artefacts.index(failure[0]))
        failures = [{"path": str(path), "error": str(error)} for path, error in failed]
        if write:
            write(rows, failures)
    if rows:
        title = f"{args.prompt_tokens} tokens of prompt, {args.new_tokens} new ones"
        print_table(title, Row.columns, [row.cells() for row in rows])
    if args.json:
        print_json([*(asdict(row) for row in rows), *failures])
    if failed:
        errors = [error for _, error in failed]
        message = f"\nspdf-keras {args.command}: error: ".join(map(str, errors))
        is_input = all(isinstance(error, InputError) for error in errors)
        raise InputError(message) if is_input else ExportError(message)
