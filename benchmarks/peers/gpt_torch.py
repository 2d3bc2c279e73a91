"""A plain pre-norm GPT-2 in PyTorch, with which training steps are compared.

    python gpt_torch.py '{"sizes": {"num_layers": 12, ...}, ...}'

For each line on its standard input it takes one step, and answers with the seconds and
the loss of the step. In bfloat16 it runs under autocast, and a batch is computed in
micro-batches of one sequence. It needs `torch` and NumPy only, see requirements.txt;
`benchmarks/step.py` starts it.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Attention and feedforward part, each behind its LayerNorm."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True
        )
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        x = x + self.projection(attended)
        y = functional.gelu(self.up(self.norm_2(x)), approximate="tanh")
        return x + self.down(y)


class GPT(nn.Module):
    """Token ids `(batch, length)` in, logits out; the token table is tied."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        width = sizes["hidden_dim"]
        self.tokens = nn.Embedding(sizes["vocabulary_size"], width)
        self.positions = nn.Embedding(sizes["max_sequence_length"], width)
        self.blocks = nn.ModuleList(
            Block(width, sizes["num_heads"], sizes["intermediate_dim"])
            for _ in range(sizes["num_layers"])
        )
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(token_ids.shape[1])
        x = self.tokens(token_ids) + self.positions(positions)
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.tokens.weight)


def main() -> None:
    """Takes steps until the input ends, or says why it cannot."""
    try:
        run(json.loads(sys.argv[1]))
    except Exception as error:  # its sentence is told, not the end of a traceback
        # Keras and PyTorch put the places of an error before or after its sentence.
        text = str(error).rpartition("Error: ")[2].splitlines()
        lines = [line.strip() for line in text if line.strip()][:2]
        sentence = f"{type(error).__name__}: {' '.join(lines)}"
        print(json.dumps({"error": sentence}), flush=True)


def run(settings: dict[str, Any]) -> None:
    """Takes a step for each line of the input."""
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    model: Any = GPT(settings["sizes"])
    if settings["compiler"] == "compiled":
        model = torch.compile(model)
    decay = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay}, {"params": others, "weight_decay": 0.0}],
        lr=6e-4,
        weight_decay=0.1,
        fused=True,
    )
    tokens = torch.from_numpy(np.asarray(settings["tokens"], np.int64))
    parts = tokens.split(1)
    in_bfloat16 = settings["precision"] == "bfloat16"
    print(json.dumps({"ready": {"PyTorch": torch.__version__}}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        value = 0.0
        for part in parts:
            labels = part[:, 1:].flatten()
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
                logits = model(part[:, :-1])
                loss = functional.cross_entropy(logits.flatten(0, 1), labels)
            loss = loss / len(parts)
            loss.backward()
            value += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "loss": value}), flush=True)


if __name__ == "__main__":
    main()
