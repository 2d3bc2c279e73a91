"""How long does a training step take in each mode, beside KerasNLP and PyTorch?

    python benchmarks/step.py measure steps.jsonl --torch-python peers-env/bin/python
    python benchmarks/step.py measure steps.jsonl --only ours,bfloat16,graph --rounds 3
    python benchmarks/step.py measure steps.jsonl --plan
    python benchmarks/step.py table steps.jsonl --into docs/results/step.md

A contender is a program (`ours`, `keras_nlp`, `torch`), a precision (`float32`,
`bfloat16`), `dense`, `masked` (zeros are multiplied) or `sparse` (zeros are skipped), a
compiler (`graph`, `xla`; of PyTorch `eager`, `compiled`), a percentage of zeros and
`--tokens`. `--only` takes those that have all words of one of its texts; `--plan`
lists them with the minutes that they will take.

The model is as wide as GPT-2 Small; data, optimizer settings (AdamW, clipping at 1.0)
and threads are equal, and a batch is computed in micro-batches of one sequence. Each
contender is a process of its own (`peers/`), which waits while others step. They are
measured in groups that fit into memory, each beside our dense model in float32 and in
the precision of the group; a ratio compares two steps of one round. Every group is
appended to the file, and a program that is started again goes on there. The peak is
that of a matrix product in the precision of the group, measured in each round too.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spdf_keras.measuring.step.contenders import Contender, Group
    from spdf_keras.measuring.step.store import Store
    from spdf_keras.measuring.step.worker import Worker

PEERS = Path(__file__).parent / "peers"


def main() -> None:
    """Measures and prints a table, and one line of JSON; or prints the table alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="take steps in turns")
    measuring.add_argument("file", help="JSON lines, to which records are appended")
    measuring.add_argument("--tokens", nargs="+", default=["1x1024"])
    measuring.add_argument("--only", nargs="+", default=[], metavar="WORD,WORD,...")
    measuring.add_argument("--rounds", type=int, default=7)
    measuring.add_argument("--layers", type=int, default=12)
    measuring.add_argument(
        "--processes", type=int, default=4, help="processes in memory (default: 4)"
    )
    measuring.add_argument(
        "--torch-python", help="a Python with peers/requirements.txt"
    )
    measuring.add_argument("--plan", action="store_true", help="measure nothing")
    table = commands.add_parser("table", help="print the table of a file in Markdown")
    table.add_argument("file", help="what `measure` has written")
    table.add_argument("--into", type=Path, help="a page between whose marks it goes")
    args = parser.parse_args()

    from spdf_keras.errors import InputError

    try:
        if args.command == "measure":
            measure_all(args)
        else:
            print_table(args)
    except InputError as error:
        sys.exit(f"step.py: error: {error}")


def measure_all(args: argparse.Namespace) -> None:
    """Measures what is selected and not in the file yet."""
    from spdf_keras.console import print_json
    from spdf_keras.measuring.step.contenders import TORCH, grid, groups, select
    from spdf_keras.measuring.step.measure import measure
    from spdf_keras.measuring.step.store import Store
    from spdf_keras.measuring.step.table import markdown
    from spdf_keras.provenance import provenance

    about, store = provenance(), Store(args.file)
    store.check_machine(about)
    chosen = select(grid(args.tokens, args.layers), args.only)
    if not args.torch_python:
        chosen = [contender for contender in chosen if contender.program != TORCH]
    left = store.left(chosen, args.rounds)
    plan = list(groups(left, args.processes))
    if plan:
        print_plan(plan, args.rounds)
    if args.plan:
        return
    start = partial(start_worker, torch_python=args.torch_python)
    report = partial(print, flush=True)
    for number, records in enumerate(measure(plan, start, args.rounds, report), 1):
        store.add(records, about)
        print(f"group {number} of {len(plan)}", flush=True)
    print(markdown(store.records, about))
    results = [summary(store, contender) for contender in chosen]
    print_json({**vars(args), **about, "results": results})


def print_plan(plan: Sequence["Group"], rounds: int) -> None:
    """Prints the groups, and about how long they will take."""
    from spdf_keras.measuring.step.measure import forecast
    from spdf_keras.training.work import matrix_peak

    peaks = {dtype: matrix_peak(dtype, 2048) for dtype in ("float32", "bfloat16")}
    for dtype, peak in peaks.items():
        print(f"peak in {dtype}: {peak / 1e9:,.0f} GFLOP/s")
    estimates = forecast(plan, rounds, peaks)
    for number, (group, seconds) in enumerate(zip(plan, estimates, strict=True), 1):
        print(f"group {number}, about {seconds / 60:.1f} minutes:")
        for contender in group.members:
            note = "" if contender not in group.baselines else " (baseline)"
            print(f"    {contender.name}{note}")
    print(f"About {sum(estimates) / 60:.0f} minutes in all.", flush=True)


def start_worker(contender: "Contender", torch_python: str | None) -> "Worker":
    """Starts the process of a contender."""
    import numpy as np

    from spdf_keras.measuring.step.contenders import TORCH
    from spdf_keras.measuring.step.worker import Worker

    sizes = contender.sizes
    shape = contender.batch, contender.length + 1
    tokens = np.random.default_rng(0).integers(sizes.vocabulary_size, size=shape)
    settings: dict[str, Any] = {
        "program": contender.program,
        "precision": contender.precision,
        "compiler": contender.compiler,
        "sparsity": contender.sparsity,
        "sizes": vars(sizes),
        "train": contender.settings,
        "threads": os.cpu_count(),
        "tokens": tokens.tolist(),
    }
    is_torch = contender.program == TORCH
    program = PEERS / ("gpt_torch.py" if is_torch else "gpt_tensorflow.py")
    python = torch_python if is_torch and torch_python else sys.executable
    return Worker([python, str(program), json.dumps(settings)])


def summary(store: "Store", contender: "Contender") -> dict[str, Any]:
    """Medians of a contender."""
    import numpy as np

    own = [record for record in store.records if record.contender == contender]
    medians = {
        name: float(np.median(values))
        for name in ("seconds", "of_float32", "of_dense", "peaks")
        if (values := [value for record in own for value in getattr(record, name)])
    }
    notes = [record.note for record in own if record.note]
    return {"contender": contender.name, **medians, "notes": notes}


def print_table(args: argparse.Namespace) -> None:
    """Prints the table, or puts it into a page."""
    from spdf_keras.errors import InputError
    from spdf_keras.measuring.step.store import Store
    from spdf_keras.measuring.step.table import markdown, write_into

    store = Store(args.file)
    if store.about is None:
        raise InputError(f"'{args.file}' must have records. Received: none.")
    text = markdown(store.records, store.about)
    if args.into:
        write_into(args.into, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
