"""What PEFT says of an adapter; it needs torch, transformers and peft alone.

    python peft_peer.py logits BASE ADAPTER IDS.npy OUT.npy
    python peft_peer.py train BASE ADAPTER '{"r": 4, "target_modules": ["c_attn"]}'
    python peft_peer.py merged BASE ADAPTER OUT.npz

It is a process of its own, since torch and TensorFlow do not share a process well, and
since these packages may be installed for another Python than that of the tests.
"""

import json
import sys

import numpy as np
import peft
import torch
import transformers


def load(base: str, adapter: str) -> peft.PeftModel:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    return peft.PeftModel.from_pretrained(model, adapter).eval()


def logits(base: str, adapter: str, ids: str, out: str) -> None:
    with torch.no_grad():
        found = load(base, adapter)(torch.from_numpy(np.load(ids)).long()).logits
    np.save(out, found.numpy())


def train(base: str, adapter: str, config: str) -> None:
    """Saves an adapter whose every weight matters."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    about = peft.LoraConfig(task_type="CAUSAL_LM", **json.loads(config))
    adapted = peft.get_peft_model(model, about)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(adapter)


def merged(base: str, adapter: str, out: str) -> None:
    """Saves the matrices with the adapter merged into them."""
    model = load(base, adapter).merge_and_unload()
    found = {n: p.detach().numpy() for n, p in model.named_parameters()}
    np.savez(out, **{n: p for n, p in found.items() if p.ndim == 2})


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
