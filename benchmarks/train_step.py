"""How much time does masking add to a training step?

    python benchmarks/train_step.py
    python benchmarks/train_step.py --layers 12 --vocabulary-size 50257 --tokens 1x1024

Three models of equal sizes and data take turns, step by step, in one process: a dense
one, one masked by our wrapper, and one wrapped by tfmot's own `PruneLowMagnitude`,
whose mask is never updated, which is its cheapest case. A ratio compares two steps of
one round; the table has medians and quartiles. The default sizes are one block of
GPT-2 Small with a small vocabulary, where the weights count most.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from spdf_keras.console import print_json
from spdf_keras.measuring.turns import Spread, ratios, time_in_turns
from spdf_keras.provenance import provenance


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--hidden-dim", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocabulary-size", type=int, default=1024)
    parser.add_argument("--tokens", default="2x512", help="batch x length")
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()

    results = []
    for jit_compile in (False, True):
        steps = build_steps(args, jit_compile)
        seconds = time_in_turns(steps, args.rounds, warm_up=3)
        for name, times in seconds.items():
            latency_ms = 1e3 * Spread.of(times).median
            ratio = ratios(times, seconds["dense"])
            print(
                f"jit_compile={jit_compile!s:5}  {name:7}{latency_ms:9.1f} ms  "
                f"{ratio.show(form='.3f', unit='x')} of dense",
                flush=True,
            )
            row = {"jit_compile": jit_compile, "variant": name}
            results.append({**row, "latency_ms": latency_ms, "ratio": vars(ratio)})
    print_json({**vars(args), **provenance(), "results": results})


def build_steps(
    args: argparse.Namespace, jit_compile: bool
) -> dict[str, Callable[[], None]]:
    """Makes a function per variant that runs one training step on one fixed batch."""
    import tensorflow as tf

    from spdf_keras import GPTConfig, build_gpt

    batch, length = map(int, args.tokens.split("x"))
    sizes = GPTConfig(
        args.layers,
        args.heads,
        args.hidden_dim,
        vocabulary_size=args.vocabulary_size,
        max_sequence_length=length,
    )
    models = {
        "dense": build_gpt(sizes),
        "masked": build_gpt(sizes, args.sparsity),
        "tfmot": stock_gpt(build_gpt(sizes), args.sparsity),
    }
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, args.vocabulary_size, (batch, length + 1), dtype=np.int32)
    data = tf.constant(tokens[:, :-1]), tf.constant(tokens[:, 1:])

    def step_of(model: Any) -> Callable[[], None]:
        model.optimizer.build(model.trainable_variables)
        step = tf.function(model.train_step, jit_compile=jit_compile)

        def run() -> None:
            step(data)["batch_loss"].numpy()

        return run

    return {name: step_of(model) for name, model in models.items()}


def stock_gpt(dense: Any, sparsity: float) -> Any:
    """Wraps the blocks of a dense model with tfmot's own wrapper."""
    import tensorflow_model_optimization as tfmot

    from spdf_keras.keras2 import keras
    from spdf_keras.model.block import GPTBlock

    never = tfmot.sparsity.keras.ConstantSparsity(sparsity, begin_step=10**9)

    def wrap(layer: Any) -> Any:
        if not isinstance(layer, GPTBlock):
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, never)

    model = keras.models.clone_model(dense, clone_function=wrap)
    callback = tfmot.sparsity.keras.UpdatePruningStep()
    callback.set_model(model)
    model.compile(dense.optimizer.__class__.from_config(dense.optimizer.get_config()))
    callback.on_train_begin()
    callback.on_train_batch_begin(0)
    return model


if __name__ == "__main__":
    main()
