"""Measures how much faster zeros make one matrix product (Figure 1 of the paper).

    spdf-keras benchmark matmul --out runs/matmul
    spdf-keras benchmark matmul --shapes 768x3072 --tokens 1024 --sparsity 0.5 0.75
    spdf-keras benchmark matmul --precision bfloat16 --out runs/matmul

All backends take turns on one kernel with random zeros: dense products of TensorFlow,
XLA and TFLite, `tf.sparse`, TFLite with sparse-encoded weights, and ours, in training
and with the kernel packed once. A speed-up is over the fastest dense product of the
same round and precision. What is done once for many products, such as the layout of the
weights, has a table of its own. With --out a stopped run goes on where it was; one
folder may have both precisions.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json

HELP = "measure matrix products against sparsity"

_BACKENDS = (
    *("tensorflow", "tensorflow-float32", "xla", "tflite"),
    *("tf.sparse", "tflite-sparse", "training", "inference"),
)


def add_arguments(parser: ArgumentParser) -> None:
    shapes = ["768x3072", "2048x8192", "12288x12288"]
    sparsities = [0.0, 0.25, 0.5, 0.625, 0.75, 0.875, 0.9, 0.95]
    parser.add_argument(
        "--shapes",
        nargs="+",
        metavar="INxOUT",
        default=shapes,
        help=f"sizes of kernels (default: {' '.join(shapes)})",
    )
    parser.add_argument(
        "--tokens",
        nargs="+",
        type=int,
        metavar="N",
        default=[1, 16, 256, 2048],
        help="numbers of tokens (default: 1 16 256 2048)",
    )
    parser.add_argument(
        "--sparsity",
        nargs="+",
        type=float,
        metavar="S",
        default=sparsities,
        help=f"fractions of zeros (default: {' '.join(map(str, sparsities))})",
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        metavar="NAME",
        choices=_BACKENDS,
        help=f"some of {', '.join(_BACKENDS)} (default: all that are present; "
        "tensorflow-float32 beside another precision)",
    )
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        default="float32",
        help="precision of weights and activations (default: float32)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="rounds of turns (default: 5)",
    )
    parser.add_argument(
        "--most-seconds",
        type=float,
        default=30,
        metavar="S",
        help="leave out calls that would take longer (default: 30)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write matmul.csv, .json and figures there"
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from dataclasses import asdict

    from spdf_keras.config import check_sparsity
    from spdf_keras.console import load_tensorflow, print_json, print_table, say
    from spdf_keras.errors import InputError
    from spdf_keras.measuring.matmul.problem import Shape

    shapes = [Shape.parse(text) for text in args.shapes]
    sparsities = sorted({check_sparsity(s) for s in args.sparsity})
    for name, values in (
        ("--tokens", args.tokens),
        ("--rounds", [args.rounds]),
        ("--most-seconds", [args.most_seconds]),
    ):
        if min(values) <= 0:
            raise InputError(f"{name} must be positive. Received: {min(values)}.")
    load_tensorflow()
    from spdf_keras.measuring.matmul.backends import BACKENDS
    from spdf_keras.measuring.matmul.measure import measure
    from spdf_keras.measuring.matmul.store import Store
    from spdf_keras.measuring.matmul.tables import notes, tables
    from spdf_keras.sparsity.skipping import available

    default = [
        name
        for name in _BACKENDS
        if name != "tensorflow-float32" or args.precision != "float32"
    ]
    backends = list(dict.fromkeys(args.backends or default))
    if not available():
        backends = [name for name in backends if name not in ("training", "inference")]
    if not any(BACKENDS[name].is_dense for name in backends):
        raise InputError(
            "--backends must have a dense one, tensorflow, xla or tflite, to compare "
            f"with. Received: {' '.join(backends)}."
        )
    store = Store(args.out)
    wanted = {
        (str(shape), sparsity, tokens, args.precision)
        for shape in shapes
        for sparsity in sparsities
        for tokens in args.tokens
    }
    done = len(wanted & store.cells)
    with store.writing():
        for cell, rows in measure(
            shapes,
            sparsities,
            sorted(set(args.tokens)),
            backends,
            precision=args.precision,
            rounds=args.rounds,
            most_seconds=args.most_seconds,
            known=store.cells,
        ):
            store.add(rows)
            done += 1
            say(
                f"{done} of {len(wanted)}: {cell[0]}, {cell[1]:.1%} zeros, {cell[2]} "
                "tokens"
            )
        written = store.finish()
    rows = [row for row in store.rows if row.cell in wanted]
    for table in tables(rows):
        print_table(*table)
    for note in notes(rows):
        say(note)
    for path in written:
        say(f"Wrote {path}.")
    if args.json:
        print_json([asdict(row) for row in rows])
