"""How much faster do artefacts run with the library that skips their zeros?

    python benchmarks/artefacts.py --sparsity 0.5 0.75 --threads 1 2

It exports a preset and measures `prefill` and `decode`, with and without the library,
in one process where all contenders take turns. In LiteRT float32, fp16 and int8 files
run; `int8` is the dense file in the runtime's own int8 products, and the sparse file
with the library. In XLA the portable programs run, and those with custom calls. With
one thread the time is the thread's own processor time for LiteRT, and the process's
for XLA; run that under `taskset -c 0`. With more threads it is wall time. A ratio
compares two calls of one round.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spdf_keras.console import print_json
from spdf_keras.export import library_path
from spdf_keras.measuring.turns import Spread, ratios, seconds, take_turns
from spdf_keras.provenance import provenance

PROGRAMS = ("prefill", "decode")
# File, whether it is sparse, and its quantization, without the library and with it.
LITERT = {
    "float32": ((False, "none"), (False, "none")),
    "float32 sparse": ((False, "none"), (True, "none")),
    "fp16": ((False, "fp16"), (False, "fp16")),
    "int8": ((False, "int8"), (True, "int8")),
}


class Contender(NamedTuple):
    """One way to run an artefact.

    Attributes:
        calls: A call of each program.
        logits: The logits that each program gave.
    """

    calls: dict[str, Callable[[], Any]]
    logits: dict[str, Any]


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2_small", help="a preset")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.75])
    parser.add_argument(
        "--runtime", nargs="+", choices=["litert", "xla"], default=["litert", "xla"]
    )
    parser.add_argument("--files", nargs="+", choices=LITERT, default=list(LITERT))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--cache-length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--keep", help="folder to keep the artefacts in")
    args = parser.parse_args()

    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.keep or scratch)
        for sparsity in args.sparsity:
            for threads in args.threads:
                if "litert" in args.runtime:
                    results += measure_litert(args, sparsity, threads, folder)
            if "xla" in args.runtime:
                results += measure_xla(args, sparsity, folder)
    print_json({**vars(args), **provenance(), "results": results})


def measure_litert(
    args: argparse.Namespace, sparsity: float, threads: int, folder: Path
) -> list[dict[str, Any]]:
    """Measures all files of one sparsity in turns; returns the rows."""
    contenders, pairs = {}, []
    for name in args.files:
        names = []
        for with_library, (sparse, quantize) in enumerate(LITERT[name]):
            key = f"{'sparse' if sparse else 'dense'} {quantize} {with_library}"
            names.append(key)
            if key not in contenders:
                path = exported_tflite(args, sparsity, folder, (sparse, quantize))
                contenders[key] = litert_contender(args, path, threads, with_library)
        pairs.append((f"LiteRT {name}", names[0], names[1]))
    clock = time.thread_time if threads == 1 else time.perf_counter
    return compare(args, sparsity, threads, contenders, pairs, clock)


def exported_tflite(
    args: argparse.Namespace, sparsity: float, folder: Path, kind: tuple[bool, str]
) -> Path:
    """Exports a file, unless it is there."""
    from spdf_keras.export import to_tflite

    sparse, quantize = kind
    name = f"s{sparsity:g}_{quantize}{'_sparse' if sparse else ''}.tflite"
    if not (folder / name).exists():
        to_tflite(
            args.model,
            folder / name,
            sparse=sparse,
            quantize=quantize,
            sparsity=sparsity,
            prompt_length=args.prompt_tokens,
            cache_length=args.cache_length,
        )
    return folder / name


def litert_contender(
    args: argparse.Namespace, path: Path, threads: int, with_library: int
) -> Contender:
    """Loads a file, with the library or without it."""
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    library = str(library_path("litert"))
    interpreter = Interpreter(
        str(path),
        num_threads=threads,
        experimental_delegates=[load_delegate(library)] if with_library else None,
    )
    prefill, decode = (interpreter.get_signature_runner(name) for name in PROGRAMS)
    random = np.random.default_rng(0)
    prompt = random.integers(8000, size=(1, args.prompt_tokens), dtype=np.int32)
    length = np.array([args.prompt_tokens], np.int32)
    inputs = {"token_ids": prompt, "lengths": length}
    results = prefill(**inputs)
    logits = {"prefill": results.pop("logits")}
    step = {"token_ids": prompt[:, :1], "position": length}
    step |= {name: np.array(cache) for name, cache in results.items()}
    logits["decode"] = decode(**step)["logits"]
    calls = {"prefill": lambda: prefill(**inputs), "decode": lambda: decode(**step)}
    return Contender(calls, logits)


def measure_xla(
    args: argparse.Namespace, sparsity: float, folder: Path
) -> list[dict[str, Any]]:
    """Measures both ways of one artefact in turns; returns the rows."""
    from spdf_keras.export import to_xla
    from spdf_keras.export.runners.run_xla import XLAModel

    path = folder / f"s{sparsity:g}_xla"
    if not path.exists():
        to_xla(
            args.model,
            path,
            sparse=True,
            skip_zeros="cpu",
            sparsity=sparsity,
            prompt_length=args.prompt_tokens,
            cache_length=args.cache_length,
        )
    contenders = {}
    for name, library in (("portable", ""), ("library", str(library_path("xla")))):
        model = XLAModel(str(path), library=library)
        inputs = {program: model.random_call(program) for program in PROGRAMS}
        contenders[name] = Contender(inputs, {})
    cores = len(os.sched_getaffinity(0))
    clock = time.process_time if cores == 1 else time.perf_counter
    pairs = [("XLA float32", "portable", "library")]
    return compare(args, sparsity, cores, contenders, pairs, clock)


def compare(
    args: argparse.Namespace,
    sparsity: float,
    threads: int,
    contenders: dict[str, Contender],
    pairs: list[tuple[str, str, str]],
    clock: Callable[[], float],
) -> list[dict[str, Any]]:
    """Lets all contenders take turns, and prints a row for each pair and program."""
    rows = []
    for program in PROGRAMS:
        # One decode is as short as the turn of a scheduler.
        repeats = 1 if program == "prefill" else 5
        calls = {
            name: partial(seconds, contender.calls[program], repeats, clock)
            for name, contender in contenders.items()
        }
        times = take_turns(calls, args.rounds)
        for file, plain, library in pairs:
            faster = ratios(times[plain], times[library])
            error = relative_error(contenders[plain], contenders[library], program)
            rows.append(
                {
                    "file": file,
                    "sparsity": sparsity,
                    "threads": threads,
                    "program": program,
                    "plain_s": vars(Spread.of(times[plain])),
                    "library_s": vars(Spread.of(times[library])),
                    "faster": vars(faster),
                    "relative_error": error,
                }
            )
            print(
                f"| {file} | {sparsity:.0%} | {threads} | {program} "
                f"| {Spread.of(times[plain]).show(1e3, '.1f', ' ms')} "
                f"| {Spread.of(times[library]).show(1e3, '.1f', ' ms')} "
                f"| {faster.show(form='.2f', unit='x')} |",
                "" if error is None else f"error {error:.1e}",
                flush=True,
            )
    return rows


def relative_error(plain: Contender, library: Contender, program: str) -> float | None:
    """Returns the largest difference of logits, as a fraction of the largest."""
    if program not in plain.logits:
        return None
    right, received = plain.logits[program], library.logits[program]
    return float(np.abs(received - right).max() / np.abs(right).max())


if __name__ == "__main__":
    main()
