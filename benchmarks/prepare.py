"""How fast is `prepare`, beside the raw speed of its tokenizer?

    python benchmarks/prepare.py wiki.train.tokens --tokenizer gpt2_bpe

The text is repeated to `--megabytes`. Three programs take turns: `encode_batch` of
tokenizers over its documents, 1,000 at a time, whose ids are not read; the same with
`encode_batch_fast`, which leaves out the offsets; and `prepare`, from the file to the
finished shards. The first two have the documents in memory, and only their calls are
timed. Each program is a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from spdf_keras.console import print_json
from spdf_keras.measuring.turns import Spread, take_turns
from spdf_keras.provenance import provenance

VARIANTS = ("encode_batch", "encode_batch_fast", "prepare")


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", help="a text file, compressed or not")
    parser.add_argument("--tokenizer", required=True, help="folder of a GPT-2 BPE")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--context-length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        size = repeat(args.text, args.megabytes * 10**6, corpus)
        calls = {name: partial(run, args, name, corpus) for name in VARIANTS}
        # Each program starts anew in each round, so that none warms up.
        measured = take_turns(calls, args.rounds, warm_up=0)
    results: dict[str, Any] = {}
    for name, runs in measured.items():
        seconds = [result["seconds"] for result in runs]
        results[name] = {
            "megabytes_per_second": size / 1e6 / Spread.of(seconds).median,
            "seconds": seconds,
            "peak_megabytes": max(result["peak_megabytes"] for result in runs),
        }
    raw = results["encode_batch"]["megabytes_per_second"]
    for name, row in results.items():
        speed = row["megabytes_per_second"]
        print(
            f"{name:18}{speed:7.2f} MB/s  {speed / raw:.2f}x of encode_batch"
            f"{row['peak_megabytes']:9.0f} MB at the peak"
        )
    print_json({**vars(args), **provenance(), "bytes": size, "results": results})


def run(args: argparse.Namespace, variant: str, corpus: Path) -> dict[str, float]:
    """Runs one variant in a process of its own."""
    command = [sys.executable, *sys.argv, "--variant", variant]
    command[command.index(args.text)] = str(corpus)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def repeat(text: str, size: int, corpus: Path) -> int:
    """Writes the text again and again, until the file has the size."""
    from spdf_keras.data.corpus.forms import open_text

    content = (open_text(text).rstrip() + "\n\n").encode()
    with corpus.open("wb") as file:
        while file.tell() < size:
            file.write(content)
        return file.tell()


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Runs one variant in this process, on the written corpus."""
    from spdf_keras.data.shards.prepare import prepare
    from spdf_keras.data.tokenizers.bpe import Tokenizer

    tokenizer = Tokenizer.load(args.tokenizer)
    if args.variant == "prepare":
        with tempfile.TemporaryDirectory(dir=Path(args.text).parent) as folder:
            start = time.perf_counter()
            prepare(
                [args.text], tokenizer, args.context_length, Path(folder) / "shards"
            )
            seconds = time.perf_counter() - start
    else:
        seconds = time_raw(args.text, getattr(tokenizer._bpe, args.variant))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": seconds, "peak_megabytes": peak}


def time_raw(text: str, encode: Callable[[list[str]], Any]) -> float:
    """Measures the seconds in the tokenizer for the documents of a file."""
    from spdf_keras.data.corpus.documents import read_documents

    seconds, documents = 0.0, []
    reading = read_documents([text])
    while documents := [d for _, d in zip(range(1000), reading, strict=False)]:
        start = time.perf_counter()
        encode(documents)
        seconds += time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    main()
