"""How fast is beam search, beside that of KerasNLP?

    python benchmarks/decode.py

Both models have the sizes of GPT-2 Small and random weights, and add 64 tokens to 8
prompts of 32, without an end token, so that both do every step. KerasNLP runs
`GPT2CausalLM.generate` with its `BeamSampler`, as it compiles it itself, and with XLA
where `--xla` is given. A ratio compares two calls of one round; the table has medians
and quartiles.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from spdf_keras.console import print_json
from spdf_keras.measuring.turns import Spread, ratios, time_in_turns
from spdf_keras.provenance import provenance

SIZES = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768}


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beams", type=int, nargs="+", default=[4, 10])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--vocabulary-size", type=int, default=50257)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--xla", action="store_true", help="also KerasNLP with XLA")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    shape = (args.batch, args.prompt_tokens)
    prompts = rng.integers(1, args.vocabulary_size, shape)
    results = []
    for beams in args.beams:
        calls = {"spdf_keras": ours(args, prompts, beams)}
        for jit_compile in (False, True)[: 1 + args.xla]:
            name = "keras_nlp, XLA" if jit_compile else "keras_nlp"
            calls[name] = theirs(args, prompts, beams, jit_compile)
        seconds = time_in_turns(calls, args.rounds)
        for name, times in seconds.items():
            ratio = ratios(times, seconds["spdf_keras"])
            rate = args.batch * args.new_tokens / Spread.of(times).median
            row = {"beams": beams, "generate": name, "tokens_per_second": rate}
            results.append({**row, "our_speed": vars(ratio)})
            print(
                f"{beams:3} beams  {name:15}{rate:9.1f} tokens/s  "
                f"speed of ours {ratio.show(form='.2f', unit='x')}",
                flush=True,
            )
    print_json({**vars(args), **provenance(), "results": results})


def ours(args: argparse.Namespace, prompts: Any, beams: int) -> Callable[[], None]:
    """Makes a call of our `generate`."""
    from spdf_keras import GPTConfig, build_gpt

    sizes = GPTConfig(
        **SIZES, vocabulary_size=args.vocabulary_size, max_sequence_length=1024
    )
    model = build_gpt(sizes)

    def run() -> None:
        new = args.new_tokens
        outputs = model.generate(prompts.tolist(), new, num_beams=beams)
        assert [len(tokens) for tokens in outputs] == [new] * args.batch

    return run


def theirs(
    args: argparse.Namespace, prompts: Any, beams: int, jit_compile: bool
) -> Callable[[], None]:
    """Makes a call of KerasNLP's `generate`."""
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(
        **SIZES,
        vocabulary_size=args.vocabulary_size,
        intermediate_dim=4 * SIZES["hidden_dim"],
        max_sequence_length=1024,
    )
    model = keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)
    sampler = keras_nlp.samplers.BeamSampler(num_beams=beams)
    model.compile(sampler=sampler, jit_compile=jit_compile)
    padding = ((0, 0), (0, args.new_tokens))
    inputs = {
        "token_ids": np.pad(prompts, padding).astype(np.int32),
        "padding_mask": np.pad(np.ones(prompts.shape, np.int32), padding),
    }

    def run() -> None:
        model.generate(inputs, stop_token_ids=None)

    return run


if __name__ == "__main__":
    main()
