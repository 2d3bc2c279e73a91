"""From which sparsity does skipping zeros pay in LiteRT?

    python benchmarks/break_even.py --sparsity 0 0.1 0.2 0.3 0.4 0.5

It converts a stack of the layers of GPT-2 Small's blocks with random zeros, and
measures it for one token and for many, in the runtime's own products and in those of
the delegate, which here takes every layer. Contenders take turns in one process; the
time is the thread's own processor time. The thresholds of the delegate come from it.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from spdf_keras.console import print_json
from spdf_keras.export import library_path
from spdf_keras.measuring.turns import Spread, ratios, seconds, take_turns
from spdf_keras.provenance import provenance


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sparsity", type=float, nargs="+", default=[0, 0.1, 0.2, 0.3, 0.4, 0.5]
    )
    parser.add_argument(
        "--quantize",
        nargs="+",
        default=["none", "fp16", "int8"],
        help="types of values",
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden-dim", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    results = []
    for quantize in args.quantize:
        for sparsity in args.sparsity:
            calls = contenders(args, sparsity, convert(args, sparsity, quantize))
            for tokens in args.tokens:
                here = {name: calls[name, tokens] for name in ("plain", "delegate")}
                times = take_turns(here, args.rounds)
                faster = ratios(times["plain"], times["delegate"])
                results.append(
                    {
                        "quantize": quantize,
                        "sparsity": sparsity,
                        "tokens": tokens,
                        **{f"{n}_s": vars(Spread.of(t)) for n, t in times.items()},
                        "faster": vars(faster),
                    }
                )
                print(
                    f"| {quantize} | {sparsity:.0%} | {tokens} "
                    f"| {Spread.of(times['plain']).show(1e3, '.2f', ' ms')} "
                    f"| {Spread.of(times['delegate']).show(1e3, '.2f', ' ms')} "
                    f"| {faster.show(form='.2f', unit='x')} |",
                    flush=True,
                )
    print_json({**vars(args), **provenance(), "results": results})


def convert(args: argparse.Namespace, sparsity: float, quantize: str) -> bytes:
    """Converts the stack to a dense `.tflite` file with a signature per number."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    module = tf.Module()
    module.v = []
    for _ in range(args.layers):
        wide = args.hidden_dim, 4 * args.hidden_dim
        for shape in (wide, wide[::-1]):
            values = random.normal(size=shape) / np.sqrt(shape[0])
            kept = random.random(shape) >= sparsity
            module.v.append(tf.Variable((values * kept + 0.0).astype(np.float32)))

    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        for weight in module.v:
            x = tf.matmul(x, weight)
        return {"y": x}

    functions = {
        f"t{n}": tf.function(call).get_concrete_function(
            tf.TensorSpec((n, args.hidden_dim), name="x")
        )
        for n in args.tokens
    }
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(functions)
        )
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        return bytes(converter.convert())


def contenders(
    args: argparse.Namespace, sparsity: float, content: bytes
) -> dict[tuple[str, int], Callable[[], float]]:
    """Returns calls that measure themselves, by contender and number of tokens."""
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    library = str(library_path("litert"))
    calls: dict[tuple[str, int], Callable[[], float]] = {}
    for name in ("plain", "delegate"):
        delegates: Any = None
        if name == "delegate":
            delegates = [load_delegate(library, {"min_sparsity": 0, "dense": 0})]
        interpreter = Interpreter(
            model_content=content, num_threads=1, experimental_delegates=delegates
        )
        for tokens in args.tokens:
            run = interpreter.get_signature_runner(f"t{tokens}")
            x = np.random.default_rng(tokens).normal(size=(tokens, args.hidden_dim))
            inputs = {"x": x.astype(np.float32)}
            repeats = 5 if tokens == 1 else 1
            calls[name, tokens] = partial(
                seconds, partial(run, **inputs), repeats, time.thread_time
            )
    return calls


if __name__ == "__main__":
    main()
