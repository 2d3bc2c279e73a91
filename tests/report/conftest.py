"""Writes run folders as trainings leave them, without training."""

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras.config import Config, GPTConfig, SparsityConfig, TrainConfig, to_toml
from spdf_keras.sparsity.masks import pack_mask, random_mask

SIZES = GPTConfig(2, 2, 16, vocabulary_size=64, max_sequence_length=32)
CONFIG = Config(
    model=SIZES, train=TrainConfig(batch_size=4, tokens=40 * 4 * 32, warmup_tokens=0)
)
VERSIONS = {"python": "3.11.7", "spdf_keras": "0.1.0", "tensorflow": "2.21.0"}
HARDWARE = {
    "machine": "x86_64",
    "processor": "A processor",
    "cores": 2,
    "memory_gib": 23.4,
    "accelerators": [],
}
SCORES: dict[str, dict[str, Any]] = {
    "e2e": {"bleu": 0.67, "nist": 8.5, "meteor": 0.46, "rouge_l": 0.7, "cider": 2.4},
    "webnlg": {"bleu": 60.0, "meteor": 0.43, "ter": 0.35, "ter_pyter": 0.36},
    "dart": {"bleu": 45.0, "meteor": 0.38, "ter": 0.51},
    "curation": {"perplexity": 31.4},
}


class FakeRuns:
    """A folder to which runs are written.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def pretrained(
        self,
        name: str,
        sparsity: float = 0.0,
        seed: int = 0,
        config: Config = CONFIG,
        steps: int = 40,
        validation: bool = True,
        result: dict[str, Any] | None = None,
        **provenance: Any,
    ) -> Path:
        """Writes a pre-training, which is finished if it has a `result`.

        `provenance=False` leaves that file out.
        """
        config = dataclasses.replace(
            config,
            sparsity=dataclasses.replace(config.sparsity, sparsity=sparsity, seed=seed),
            train=dataclasses.replace(config.train, seed=seed),
        )
        folder = self._run(name, config, steps, 4.0 + sparsity + 0.01 * seed)
        if validation:
            self.log(folder, step=steps, validation_loss=3.9 + sparsity + 0.1 * seed)
        self.provenance(
            folder,
            kind="pretrain",
            command=f"spdf-keras pretrain s.toml --out {name} --set train.seed={seed}",
            started="2026-01-01T00:00:00+00:00",
            **provenance,
        )
        return self.finish(folder, result)

    def finetuned(
        self,
        name: str,
        sparsity: float = 0.0,
        seed: int = 0,
        task: str = "e2e",
        masks: str = "stripped",
        config: Config = CONFIG,
        result: dict[str, Any] | None = None,
        **provenance: Any,
    ) -> Path:
        """Writes a fine-tuning, as `pretrained` does."""
        left = sparsity if masks == "kept" else 0.0
        config = dataclasses.replace(
            config,
            sparsity=SparsityConfig(left, seed),
            train=dataclasses.replace(config.train, seed=seed),
        )
        folder = self._run(name, config, 20, 2.0 + sparsity + 0.01 * seed)
        for epoch in (1, 2):
            self.log(
                folder, step=10 * epoch, epoch=epoch, validation_loss=2.2 - epoch / 10
            )
        base = {
            "folder": f"s{sparsity * 100:g}",
            "sparsity": sparsity,
            "seed": seed,
            "mask_seed": seed,
            "tokens": 5120,
            "flops": 1e12 * (1 - 0.5 * sparsity),
            "validation_loss": 3.9 + sparsity + 0.1 * seed,
        }
        self.provenance(
            folder,
            kind="finetune",
            command=f"spdf-keras finetune s --task {task} --out {name}",
            task=task,
            masks=masks,
            started="2026-01-02T00:00:00+00:00",
            **{"base": base, **provenance},
        )
        return self.finish(folder, result)

    def finish(self, folder: Path, result: dict[str, Any] | None) -> Path:
        """Writes what a run records at its end, if anything."""
        if result is not None:
            (folder / "result.json").write_text(json.dumps(result))
        return folder

    def evaluated(
        self, folder: Path, task: str = "e2e", split: str = "test", **fields: Any
    ) -> Path:
        """Adds an evaluation to a run; `fields` replace what it has."""
        scores = SCORES.get(task, {})
        document = {
            "task": task,
            "split": split,
            "protocol": {"e2e": "e2e-metrics", "webnlg": "webnlg-2017"}.get(task, task),
            "inputs": 630,
            "decode": {"num_beams": 10, "length_penalty": 0.8, "batch_size": 8},
            "scores": scores,
            "errors": {},
            "parts": {"seen": scores, "unseen": scores} if task == "webnlg" else {},
            "samples": [
                {
                    "context": "name : Aromi | area : city_centre",
                    "hypothesis": f"Aromi <b>of {folder.name}</b> is *central* | nice.",
                    "references": ["Aromi is central.", "In the centre is Aromi."],
                }
            ],
            "command": f"spdf-keras evaluate {folder.name} --data /data/{task}",
            "versions": VERSIONS,
            "hardware": HARDWARE,
            "seconds": 1.0,
            **fields,
        }
        file = folder / "evaluation" / f"{task}_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(document))
        return file

    def study(self, tasks: Iterable[str] = SCORES, seeds: int = 3) -> Path:
        """Pre-trainings at three sparsities, fine-tuned densely and evaluated."""
        for sparsity in (0.0, 0.5, 0.75):
            for seed in range(seeds):
                name = f"s{sparsity * 100:g}-{seed}"
                self.pretrained(f"{name}/pretrain", sparsity, seed)
                for task in tasks:
                    folder = self.finetuned(f"{name}/{task}", sparsity, seed, task)
                    shift = 0.01 * (seed - 1) - 0.02 * sparsity
                    scores = {k: v + shift for k, v in SCORES[task].items()}
                    self.evaluated(folder, task, scores=scores)
        kept = self.finetuned("s75-0/kept", 0.75, 0, masks="kept")
        self.evaluated(kept, samples=[])
        return self.root

    def _run(self, name: str, config: Config, steps: int, floor: float) -> Path:
        folder = self.settings(name, config)
        for step in range(1, steps + 1):
            loss = floor + 4.0 * math.exp(-step / 8) + 0.1 * math.sin(7 * step)
            self.log(folder, step=step, loss=loss, learning_rate=1e-3, seconds=0.1)
        if steps:
            self.checkpoint(folder, config, steps)
        return folder

    def settings(self, name: str, config: Config) -> Path:
        """Writes a run that has not done a step."""
        folder = self.root / name
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "config.toml").write_text(to_toml(config))
        return folder

    def checkpoint(self, folder: Path, config: Config, step: int) -> Path:
        """Writes the newest checkpoint; a sparse run's has masks."""
        from safetensors.numpy import save_file

        target = folder / "checkpoints" / f"step-{step:08d}"
        target.mkdir(parents=True)
        d, wide = config.model.hidden_dim, config.model.intermediate_dim
        shapes = {
            **dict.fromkeys(("query", "key", "value", "attention_output"), (d, d)),
            "intermediate": (d, wide),
            "output": (wide, d),
        }
        weights, masks = {}, {}
        for layer in range(config.model.num_layers):
            for name, shape in shapes.items():
                path = f"block_{layer}/{name}/kernel"
                mask = random_mask(path, shape, config.sparsity.sparsity, seed=0)
                weights[path] = np.where(mask, 0.5, 0.0).astype(np.float32)
                masks[path] = pack_mask(mask)
        save_file(weights, target / "weights.safetensors")
        if config.sparsity.sparsity:
            save_file(masks, target / "masks.safetensors")
        return target

    def log(self, folder: Path, **record: Any) -> None:
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def provenance(self, folder: Path, **fields: Any) -> None:
        """Writes `provenance.json`, but with `provenance=False` among the fields."""
        if fields.pop("provenance", True):
            document = {"versions": VERSIONS, "hardware": HARDWARE, **fields}
            (folder / "provenance.json").write_text(json.dumps(document))


@pytest.fixture
def runs(tmp_path: Path) -> FakeRuns:
    """An empty folder for runs."""
    return FakeRuns(tmp_path / "runs")


@pytest.fixture(scope="session")
def study(tmp_path_factory: Any) -> Path:
    """A folder with a whole study, not to be changed."""
    return FakeRuns(tmp_path_factory.mktemp("study")).study(["e2e", "webnlg"])


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws figures but saves blank ones: rendering is most of a report's time."""
    blank = {"png": b"\x89PNG", "svg": '<svg viewBox="0 0 1 1"></svg>'}

    def savefig(figure: Any, target: Any, format: str, **options: Any) -> None:
        target.write(blank[format])

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
