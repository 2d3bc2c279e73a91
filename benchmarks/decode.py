"""How fast are beam search and greedy decoding, beside KerasNLP's and transformers'?

    python benchmarks/decode.py --torch-python peers-env/bin/python

All models have the sizes of GPT-2 Small and random weights, and add 16 tokens to 8
prompts of 32, without an end token, so that all do every step. KerasNLP runs
`GPT2CausalLM.generate` with its `BeamSampler` or `GreedySampler`, as it compiles it
itself and with XLA. transformers runs `peers/generate_transformers.py` in a process and
environment of its own (`peers/requirements.txt`), which waits while others decode. A
ratio compares two calls of one round; the table has medians and quartiles.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spdf_keras.console import print_json
from spdf_keras.measuring.turns import Spread, ratios, time_in_turns
from spdf_keras.provenance import provenance

SIZES: dict[str, Any] = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768}
OURS = "spdf_keras"

# A call with this number of beams.
Call = Callable[[int], Any]


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beams", type=int, nargs="+", default=[4, 10, 1])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--vocabulary-size", type=int, default=50257)
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-python", help="a Python with peers/requirements.txt")
    parser.add_argument("--skip-xla", action="store_true", help="no KerasNLP with XLA")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    shape = (args.batch, args.prompt_tokens)
    prompts = rng.integers(1, args.vocabulary_size, shape)
    contenders = {
        OURS: ours(args, prompts),
        "spdf_keras, sparse": ours(args, prompts, args.sparsity),
        "spdf_keras, bfloat16": ours(args, prompts, 0.0, "mixed_bfloat16"),
        "spdf_keras, sparse bfloat16": ours(
            args, prompts, args.sparsity, "mixed_bfloat16"
        ),
        "keras_nlp": keras_nlp(args, prompts, jit_compile=False),
    }
    if not args.skip_xla:
        contenders["keras_nlp, XLA"] = keras_nlp(args, prompts, jit_compile=True)
    if args.torch_python:
        for dtype in ("float32", "bfloat16"):
            name = f"transformers, {dtype}"
            contenders[name] = transformers(args, prompts, dtype)
    results = []
    for beams in args.beams:
        calls = {name: partial(call, beams) for name, call in contenders.items()}
        seconds = time_in_turns(calls, args.rounds)
        for name, times in seconds.items():
            ratio = ratios(times, seconds[OURS])
            rate = args.batch * args.new_tokens / Spread.of(times).median
            row = {"beams": beams, "generate": name, "tokens_per_second": rate}
            results.append({**row, "our_speed": vars(ratio)})
            print(
                f"{beams:3} beams  {name:28}{rate:9.1f} tokens/s  "
                f"speed of ours {ratio.show(form='.2f', unit='x')}",
                flush=True,
            )
    print_json({**vars(args), **provenance(), "results": results})


def ours(
    args: argparse.Namespace,
    prompts: Any,
    sparsity: float = 0.0,
    precision: str = "float32",
) -> Call:
    """Makes a call of our `generate`; a sparse model skips its zeros."""
    from spdf_keras import GPTConfig, build_gpt

    sizes = GPTConfig(
        **SIZES, vocabulary_size=args.vocabulary_size, max_sequence_length=1024
    )
    compute = "sparse" if sparsity else "dense"
    model = build_gpt(sizes, sparsity, precision=precision, compute=compute)

    def run(beams: int) -> None:
        new = args.new_tokens
        outputs = model.generate(prompts.tolist(), new, num_beams=beams)
        assert [len(tokens) for tokens in outputs] == [new] * args.batch

    return run


def keras_nlp(args: argparse.Namespace, prompts: Any, jit_compile: bool) -> Call:
    """Makes a call of KerasNLP's `generate`, which it compiles when beams change."""
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(
        **SIZES,
        vocabulary_size=args.vocabulary_size,
        intermediate_dim=4 * SIZES["hidden_dim"],
        max_sequence_length=1024,
    )
    model = keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)
    padding = ((0, 0), (0, args.new_tokens))
    inputs = {
        "token_ids": np.pad(prompts, padding).astype(np.int32),
        "padding_mask": np.pad(np.ones(prompts.shape, np.int32), padding),
    }
    compiled: list[int] = []

    def run(beams: int) -> None:
        if compiled != [beams]:
            samplers = keras_nlp.samplers
            greedy = beams == 1
            sampler = (
                samplers.GreedySampler() if greedy else samplers.BeamSampler(beams)
            )
            model.compile(sampler=sampler, jit_compile=jit_compile)
            compiled[:] = [beams]
        model.generate(inputs, stop_token_ids=None)

    return run


def transformers(args: argparse.Namespace, prompts: Any, dtype: str) -> Call:
    """Starts `peers/generate_transformers.py`, which decodes once for each line."""
    settings = {
        **SIZES,
        "vocabulary_size": args.vocabulary_size,
        "max_sequence_length": 1024,
        "new_tokens": args.new_tokens,
        "prompts": prompts.tolist(),
        "threads": os.cpu_count(),
        "dtype": dtype,
    }
    program = Path(__file__).parent / "peers" / "generate_transformers.py"
    process = subprocess.Popen(
        [args.torch_python, str(program), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(beams: int) -> None:
        assert process.stdin and process.stdout
        process.stdin.write(f"{beams}\n")
        process.stdin.flush()
        assert process.stdout.readline(), "transformers has stopped"

    return run


if __name__ == "__main__":
    main()
