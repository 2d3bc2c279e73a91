"""How fast is a training step, beside those of KerasNLP and PyTorch?

    python benchmarks/throughput.py --torch-python peers-env/bin/python
    python benchmarks/throughput.py --layers 2 --tokens 1x256 --rounds 3

Sizes, data, optimizer settings (AdamW, clipping at 1.0) and threads are equal; each
round takes one step of each. Our model and KerasNLP's `GPT2CausalLM` run the function
that `fit` calls, in this process; PyTorch runs `peers/gpt_torch.py` in its environment
(`peers/requirements.txt`), which waits while others step. A ratio compares two steps of
one round; the table has medians and quartiles. The peak is that of the machine's
float32 matrix product, which is measured in each round too.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spdf_keras.console import print_json
from spdf_keras.measuring.turns import Spread, ratios, take_turns
from spdf_keras.provenance import provenance

# Seconds of a step, and its loss.

Step = Callable[[], tuple[float, float]]


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--tokens", default="1x1024", help="batch x length")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--torch-python", help="a Python with peers/requirements.txt")
    parser.add_argument("--torch-compile", action="store_true", help="torch.compile")
    parser.add_argument("--xla", action="store_true", help="compile ours and KerasNLP")
    parser.add_argument("--skip-keras-nlp", action="store_true")
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0.0])
    args = parser.parse_args()

    from spdf_keras import GPTConfig
    from spdf_keras.flops import training_flops
    from spdf_keras.training.work import matrix_peak

    batch, length = map(int, args.tokens.split("x"))
    sizes = GPTConfig(args.layers, 12, 768, max_sequence_length=length)
    rng = np.random.default_rng(0)
    shape = (batch, length + 1)
    tokens = rng.integers(0, sizes.vocabulary_size, shape, dtype=np.int32)

    steps: dict[str, Step] = {}
    for sparsity in args.sparsity:
        steps[f"ours, {sparsity:.0%}"] = ours(sizes, tokens, sparsity, args.xla)
    if not args.skip_keras_nlp:
        steps["KerasNLP"] = keras_nlp(sizes, tokens, args.xla)
    if args.torch_python:
        steps["PyTorch"] = pytorch(sizes, tokens, args)
    peak_of = partial(matrix_peak, "float32", 2048, repeats=3)
    calls: dict[str, Callable[[], Any]] = {"peak": peak_of, **steps}
    measured = take_turns(
        calls, args.rounds, report=lambda n, total: print(f"round {n} of {total}")
    )

    peak = Spread.of(measured.pop("peak")).median
    seconds = {name: [step[0] for step in taken] for name, taken in measured.items()}
    our_seconds = next(iter(seconds.values()))
    flops = batch * training_flops(sizes, length)
    results = []
    for name, times in seconds.items():
        median, speed = Spread.of(times).median, ratios(times, our_seconds)
        results.append(
            {
                "step": name,
                "seconds": median,
                "tokens_per_second": batch * length / median,
                "share_of_peak": flops / median / peak,
                "our_speed": vars(speed),
                "losses": [step[1] for step in measured[name]],
            }
        )
        print(
            f"{name:12} {median:7.3f} s  {batch * length / median:8.1f} tokens/s  "
            f"{flops / median / peak:.1%} of the peak  "
            f"speed of ours {speed.show(form='.2f', unit='x')}"
        )
    conditions = {**provenance(), "peak_flops_per_second": peak}
    print_json({**vars(args), **conditions, "results": results})


def ours(sizes: Any, tokens: Any, sparsity: float, xla: bool) -> Step:
    """Makes the step of `build_gpt(...).fit`."""
    from spdf_keras import build_gpt

    model = build_gpt(sizes, sparsity, jit_compile=xla)
    return fitted(model, (tokens[:, :-1], tokens[:, 1:]), "batch_loss")


def keras_nlp(sizes: Any, tokens: Any, xla: bool) -> Step:
    """Makes the step of KerasNLP's `GPT2CausalLM.fit`, without dropout."""
    from peers.gpt_keras_nlp import compiled_gpt2  # type: ignore[import-not-found]

    model = compiled_gpt2(sizes, xla)
    inputs = tokens[:, :-1]
    x = {"token_ids": inputs, "padding_mask": np.ones_like(inputs)}
    return fitted(model, (x, tokens[:, 1:]), "loss")


def fitted(model: Any, data: Any, loss: str) -> Step:
    """Times the function that `fit` calls for each batch."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensors(data).repeat()
    iterator = iter(dataset)
    function = model.make_train_function()

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        model.reset_metrics()
        value = float(function(iterator)[loss].numpy())
        return time.perf_counter() - start, value

    return step


def pytorch(sizes: Any, tokens: Any, args: argparse.Namespace) -> Step:
    """Starts `peers/gpt_torch.py`, which takes a step at a time and waits."""
    settings = {
        **vars(sizes),
        "threads": os.cpu_count(),
        "compile": args.torch_compile,
        "tokens": tokens.tolist(),
    }
    program = Path(__file__).parent / "peers" / "gpt_torch.py"
    process = subprocess.Popen(
        [args.torch_python, str(program), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def step() -> tuple[float, float]:
        assert process.stdin and process.stdout
        process.stdin.write("step\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        return answer["seconds"], answer["loss"]

    return step


if __name__ == "__main__":
    main()
