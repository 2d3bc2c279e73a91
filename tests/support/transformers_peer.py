"""What transformers says of a checkpoint; it needs torch and transformers alone.

    python transformers_peer.py make FOLDER '{"activation_function": "gelu"}' 100KB
    python transformers_peer.py logits FOLDER IDS.npy OUT.npy
    python transformers_peer.py generate FOLDER '[[1, 2]]' '{"num_beams": 10}'
    python transformers_peer.py encode FOLDER '["a text"]'
    python transformers_peer.py zeros FOLDER

It is a process of its own, since torch and TensorFlow do not share a process well, and
since these packages may be installed for another Python than that of the tests.
"""

import json
import sys

import numpy as np
import torch
import transformers


def make(folder: str, config: str, shard: str = "50GB") -> None:
    """Saves a random model whose every weight matters."""
    settings = json.loads(config)
    seed = settings.pop("seed", 0)
    torch.manual_seed(seed)
    about = transformers.GPT2Config(**settings)
    model = transformers.GPT2LMHeadModel(about)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
            if name.endswith("mlp.c_fc.bias"):
                parameter.sub_(2.5)  # where the two forms of GELU differ most
            if name.endswith("mlp.c_proj.weight"):
                parameter.mul_(5)
    model.save_pretrained(folder, max_shard_size=shard)


def load(folder: str) -> transformers.PreTrainedModel:
    model, about = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not about["missing_keys"] and not about["unexpected_keys"], about
    return model.eval().float()


def logits(folder: str, ids: str, out: str) -> None:
    with torch.no_grad():
        found = load(folder)(torch.from_numpy(np.load(ids)).long()).logits
    np.save(out, found.numpy())


class ContinuationNGrams(transformers.LogitsProcessor):
    """Bans n-grams of the continuation alone; that of transformers reads the prompt."""

    def __init__(self, size: int, prompt: int) -> None:
        self.ban = transformers.NoRepeatNGramLogitsProcessor(size)
        self.prompt = prompt

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return self.ban(ids[:, self.prompt :], scores)


def generate(folder: str, prompts: str, settings: str, ngrams: str = "0") -> None:
    """Prints the new tokens of each prompt."""
    model, found = load(folder), []
    for prompt in json.loads(prompts):
        own = [ContinuationNGrams(int(ngrams), len(prompt))] if int(ngrams) else []
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        with torch.no_grad():
            line = model.generate(
                ids,
                attention_mask=mask,
                logits_processor=transformers.LogitsProcessorList(own),
                **json.loads(settings),
            )
        found.append(line[0, len(prompt) :].tolist())
    print(json.dumps(found))


def encode(folder: str, texts: str) -> None:
    """Prints the token ids of texts, and the texts of these ids."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer).__name__.startswith("GPT2Tokenizer"), type(tokenizer)
    ids = [tokenizer(text)["input_ids"] for text in json.loads(texts)]
    print(json.dumps([ids, [tokenizer.decode(line) for line in ids]]))


def zeros(folder: str) -> None:
    """Prints the zeros in each third of each query, key and value."""
    model = load(folder)
    print(
        json.dumps(
            {
                name: [int((part == 0).sum()) for part in parameter.chunk(3, -1)]
                for name, parameter in model.named_parameters()
                if name.endswith("c_attn.weight")
            }
        )
    )


def settings(folder: str) -> None:
    """Prints the decoding settings that transformers reads."""
    found = transformers.GenerationConfig.from_pretrained(folder)
    print(json.dumps(found.to_diff_dict()))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
