"""How long does it take from `build_gpt` to the end of the first training step?

    python benchmarks/first_step.py
    python benchmarks/first_step.py --jit-compile --runs 1
    python benchmarks/first_step.py --keras-nlp

Each run is a process of its own, since TensorFlow keeps what it has traced and
compiled: it imports the package, builds the model and calls `fit` on random tokens.
With `--keras-nlp`, runs of KerasNLP's `GPT2CausalLM` of equal sizes take turns.
Printed are medians: of the import, of `build_gpt`, from its start to the end of the
first step, and of a later step. CPU seconds tell what load on the machine hides.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from spdf_keras.console import print_json
from spdf_keras.provenance import provenance

# A run's measurements, in the order of the table.
COLUMNS = ("import", "build", "first step", "first step (CPU)", "later step")


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2_small")
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--tokens", default="1x1024", help="batch x length")
    parser.add_argument("--jit-compile", action="store_true")
    parser.add_argument("--keras-nlp", action="store_true", help="measure KerasNLP too")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--later-steps", type=int, default=3)
    parser.add_argument("--measure", metavar="WHAT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
        return

    subjects = ["ours", "KerasNLP"] if args.keras_nlp else ["ours"]
    runs: dict[str, list[dict[str, float]]] = {subject: [] for subject in subjects}
    for _ in range(args.runs):
        for subject in subjects:
            runs[subject].append(in_a_process(subject))
    print(f"{'seconds':10}" + "".join(f"{column:>18}" for column in COLUMNS))
    medians = {
        subject: {
            column: statistics.median(r[column] for r in own) for column in own[0]
        }
        for subject, own in runs.items()
    }
    for subject, row in medians.items():
        print(f"{subject:10}" + "".join(f"{row[column]:18.1f}" for column in COLUMNS))
    results = {"medians": medians, "runs": runs}
    print_json({**vars(args), **provenance(), "results": results})


def in_a_process(subject: str) -> dict[str, float]:
    """Measures one subject in a new process with the arguments of this one."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", subject]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Builds a model, takes steps, and returns the seconds of each part."""
    start = time.perf_counter()
    import tensorflow as tf

    from spdf_keras.config import get_preset
    from spdf_keras.keras2 import keras

    sizes = get_preset(args.model).model
    batch, length = map(int, args.tokens.split("x"))
    shape = (batch * (1 + args.later_steps), length + 1)
    tokens = np.random.default_rng(0).integers(0, sizes.vocabulary_size, shape, "int32")
    imported, cpu = time.perf_counter(), time.process_time()
    if args.measure == "ours":
        from spdf_keras import build_gpt

        model = build_gpt(args.model, args.sparsity, jit_compile=args.jit_compile)
        x: Any = tokens[:, :-1]
    else:
        from peers.gpt_keras_nlp import compiled_gpt2  # type: ignore[import-not-found]

        model = compiled_gpt2(sizes, args.jit_compile)
        inputs = tokens[:, :-1]
        x = {"token_ids": inputs, "padding_mask": np.ones_like(inputs)}
    built = time.perf_counter()
    steps, cpu_steps = [], []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            steps.append(time.perf_counter())
            cpu_steps.append(time.process_time())

    data = tf.data.Dataset.from_tensor_slices((x, tokens[:, 1:])).batch(batch)
    model.fit(data, verbose=0, callbacks=[Clock()])
    later = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    values = (
        imported - start,
        built - imported,
        steps[0] - imported,
        cpu_steps[0] - cpu,
        statistics.median(later) if later else float("nan"),
    )
    return dict(zip(COLUMNS, values, strict=True))


if __name__ == "__main__":
    main()
