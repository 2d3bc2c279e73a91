"""Our adapters in PEFT, and PEFT's adapters here, on one base."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from spdf_keras.adapters.attach import adapt
from spdf_keras.adapters.merge import merge
from spdf_keras.adapters.peft import load_adapter
from spdf_keras.config import KERNELS, LoRAConfig
from spdf_keras.export import to_peft

Build = Callable[..., Any]
PROGRAM = Path(__file__).parents[1] / "support" / "peft_peer.py"
# Sums of float32 in another order.
CLOSE = 1e-4


@pytest.fixture(scope="module")
def peft() -> Callable[..., None]:
    """Calls the program with PEFT."""
    python = os.environ.get("SPDF_TRANSFORMERS_PYTHON", sys.executable)
    names = ("torch", "transformers", "peft")
    here = python == sys.executable
    if here and not all(map(importlib.util.find_spec, names)):
        pytest.skip(
            "torch, transformers and peft are not here: name the Python that has them "
            "in SPDF_TRANSFORMERS_PYTHON"
        )
    # The package and its Keras are not for that process.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["HF_HUB_OFFLINE"] = "1"
    if (
        not here
        and subprocess.run(
            [python, "-c", "import peft"],
            env=environment,
            check=False,
            capture_output=True,
        ).returncode
    ):
        pytest.skip("the Python of SPDF_TRANSFORMERS_PYTHON has no peft")

    def call(*words: Any) -> None:
        done = subprocess.run(
            [python, PROGRAM, *map(str, words)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "unexpected" not in done.stderr and "missing" not in done.stderr

    return call


def write_base(model: Any, folder: Path) -> Path:
    """Writes a GPT-2 checkpoint of Hugging Face, by the names in its documentation."""
    weights = {p: w.numpy() for p, w in model.named_weights().items()}
    tensors = {
        "wte.weight": weights["embedding/token"],
        "wpe.weight": weights["embedding/position"],
        "ln_f.weight": weights["final_norm/gamma"],
        "ln_f.bias": weights["final_norm/beta"],
    }
    for index in range(model.sizes.num_layers):
        own, block = f"h.{index}", f"block_{index}"
        for theirs, ours in (("ln_1", "attention_norm"), ("ln_2", "feedforward_norm")):
            tensors[f"{own}.{theirs}.weight"] = weights[f"{block}/{ours}/gamma"]
            tensors[f"{own}.{theirs}.bias"] = weights[f"{block}/{ours}/beta"]
        for theirs, names in (
            ("attn.c_attn", KERNELS[:3]),
            ("attn.c_proj", KERNELS[3:4]),
            ("mlp.c_fc", KERNELS[4:5]),
            ("mlp.c_proj", KERNELS[5:]),
        ):
            for theirs_kind, kind in (("weight", "kernel"), ("bias", "bias")):
                parts = [weights[f"{block}/{name}/{kind}"] for name in names]
                tensors[f"{own}.{theirs}.{theirs_kind}"] = np.concatenate(parts, -1)
    folder.mkdir()
    prefixed = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    save_file(prefixed, folder / "model.safetensors", {"format": "pt"})
    sizes = model.sizes
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": sizes.vocabulary_size,
        "n_positions": sizes.max_sequence_length,
        "n_embd": sizes.hidden_dim,
        "n_layer": sizes.num_layers,
        "n_head": sizes.num_heads,
        "n_inner": sizes.intermediate_dim,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def relative(received: Any, expected: Any) -> float:
    difference = np.abs(np.asarray(received) - np.asarray(expected)).max()
    return float(difference / np.abs(np.asarray(expected)).max())


@pytest.mark.parametrize(
    "targets",
    [("query", "value"), ("key", "attention_output"), ("output",), KERNELS],
    ids=",".join,
)
def test_our_adapter_computes_the_same_in_peft(
    peft: Callable[..., None],
    adapted: Build,
    base: Build,
    token_ids: np.ndarray,
    tmp_path: Path,
    targets: tuple[str, ...],
) -> None:
    model = adapted(0.75, LoRAConfig(4, 32.0, 0.1, targets), compute="sparse")
    folder = write_base(base(0.75), tmp_path / "base")
    to_peft(model, tmp_path / "adapter", base_model=str(folder))
    np.save(tmp_path / "ids.npy", token_ids)
    peft(
        "logits",
        folder,
        tmp_path / "adapter",
        tmp_path / "ids.npy",
        tmp_path / "out.npy",
    )
    theirs = np.load(tmp_path / "out.npy")
    assert relative(theirs, model(token_ids)) < CLOSE
    assert relative(theirs, base(0.75)(token_ids)) > 10 * CLOSE
    peft("merged", folder, tmp_path / "adapter", tmp_path / "merged.npz")
    weights, found = merge(model).named_weights(), np.load(tmp_path / "merged.npz")
    for index in range(2):
        parts = [weights[f"block_{index}/{name}/kernel"] for name in KERNELS]
        whole = found[f"transformer.h.{index}.attn.c_attn.weight"]
        assert relative(np.concatenate(parts[:3], 1), whole) < 1e-6
        output = found[f"transformer.h.{index}.mlp.c_proj.weight"]
        assert relative(parts[5], output) < 1e-6


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 16},
        {"r": 6, "lora_alpha": 12, "target_modules": ["c_attn", "mlp.c_proj"]},
        {
            "r": 2,
            "target_modules": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
            "rank_pattern": {"attn.c_attn": 8, "mlp.c_fc": 3},
            "alpha_pattern": {"mlp.c_proj": 5},
            "use_rslora": True,
        },
        {"r": 4, "target_modules": ["c_attn"], "layers_to_transform": [1]},
    ],
    ids=["defaults", "two modules", "patterns", "one block"],
)
def test_an_adapter_of_peft_computes_the_same_here(
    peft: Callable[..., None],
    base: Build,
    token_ids: np.ndarray,
    tmp_path: Path,
    config: dict[str, Any],
) -> None:
    model = base(0.75)
    folder = write_base(model, tmp_path / "base")
    peft("train", folder, tmp_path / "adapter", json.dumps(config))
    np.save(tmp_path / "ids.npy", token_ids)
    peft(
        "logits",
        folder,
        tmp_path / "adapter",
        tmp_path / "ids.npy",
        tmp_path / "out.npy",
    )
    theirs = np.load(tmp_path / "out.npy")
    read = load_adapter(tmp_path / "adapter")
    assert relative(adapt(model, read)(token_ids), theirs) < CLOSE
    assert relative(model(token_ids), theirs) > 10 * CLOSE
