"""Beam search of transformers' GPT-2, with which ours is compared.

    python generate_transformers.py '{"layers": 12, ...}'

For each line on its standard input, a number of beams, it continues all prompts and
answers with the seconds. Weights are random. It needs `torch` and `transformers`, see
requirements.txt; `benchmarks/decode.py` starts it.
"""

import json
import os
import sys
import time

# The model is made from its sizes; nothing is looked up.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def main() -> None:
    """Continues the prompts for each line of the input."""
    settings = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    config = GPT2Config(
        vocab_size=settings["vocabulary_size"],
        n_positions=settings["max_sequence_length"],
        n_embd=settings["hidden_dim"],
        n_layer=settings["num_layers"],
        n_head=settings["num_heads"],
        # Without an end token every step is done.
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval().to(getattr(torch, settings["dtype"]))
    prompts = torch.tensor(settings["prompts"])
    new = settings["new_tokens"]
    for line in sys.stdin:
        start = time.perf_counter()
        with torch.inference_mode():
            outputs = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=new,
                num_beams=int(line),
                do_sample=False,
                pad_token_id=0,
            )
        seconds = time.perf_counter() - start
        if outputs.shape != (len(prompts), prompts.shape[1] + new):
            raise SystemExit(f"{new} new tokens must be made, got {outputs.shape}.")
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
