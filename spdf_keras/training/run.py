"""A run: the folder that holds everything about one training."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spdf_keras.config import Config, load_config, to_toml
from spdf_keras.data.tokenizer import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.files import UNFINISHED, replace_file
from spdf_keras.provenance import provenance
from spdf_keras.training.checkpoint import list_checkpoints, restore_checkpoint

if TYPE_CHECKING:
    from spdf_keras.model.gpt import GPT

_FILES = frozenset(
    (
        "config.toml",
        "tokenizer",
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "provenance.json",
        "result.json",
    )
)


@dataclass(frozen=True)
class Run:
    """A run folder.

    It holds `config.toml` (every setting), `tokenizer/`, `checkpoints/`,
    `metrics.jsonl` (a line per step or validation), `tensorboard/`, and
    `provenance.json` (command, versions, hardware and what it started from). A
    finished one has `result.json`, and `evaluation/` with a JSON file and the
    outputs of each split that was scored.

    Attributes:
        folder: Where it is.
    """

    folder: Path

    @classmethod
    def create(
        cls,
        folder: str | Path,
        config: Config,
        tokenizer: Tokenizer,
        origin: dict[str, Any],
    ) -> "Run":
        """Makes a new run.

        Args:
            folder: Where; its parents are made.
            config: Every setting.
            tokenizer: A copy is saved.
            origin: `kind`, and what else `provenance.json` holds of this kind.

        Raises:
            InputError: If the folder holds something that is not an unfinished run.
        """
        run = cls(Path(folder))
        if run.folder.exists():
            # A run that was killed before its first checkpoint starts afresh, but
            # nothing is removed that a run has not written.
            names = os.listdir(run.folder) if run.folder.is_dir() else [""]
            ours = _FILES.issuperset(n.removesuffix(UNFINISHED) for n in names)
            if not ours or run.checkpoints():
                raise InputError(f"The folder '{folder}' is in use: choose another.")
            shutil.rmtree(run.folder)
        run.folder.mkdir(parents=True)
        tokenizer.save(run.folder / "tokenizer")
        run._write_json("provenance", {**origin, **provenance()})
        run._config_file.write_text(to_toml(config), "utf-8")
        return run

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Opens a run that has at least one checkpoint.

        Raises:
            InputError: If the folder is not a run, or has no checkpoint yet.
        """
        run = cls(Path(folder))
        if not run._config_file.is_file():
            raise InputError(
                f"No run in '{folder}': there is no config.toml. Make one with "
                "`spdf-keras pretrain`."
            )
        if not run.checkpoints():
            raise InputError(f"The run '{folder}' has no checkpoint yet.")
        return run

    @property
    def _config_file(self) -> Path:
        return self.folder / "config.toml"

    @property
    def _metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def checkpoint_folder(self) -> Path:
        """Where its checkpoints are."""
        return self.folder / "checkpoints"

    def evaluation_file(self, task: str, split: str) -> Path:
        """Where the scores of a task's split are; the outputs are beside it, `.txt`."""
        return self.folder / "evaluation" / f"{task}_{split}.json"

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Records that it is complete, and with what result."""
        self._write_json("result", result)
        return result

    def result(self) -> dict[str, Any] | None:
        """What `finish` recorded; None while it is not complete."""
        file = self.folder / "result.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else None

    def origin(self) -> dict[str, Any]:
        """Its `provenance.json`; empty for a run of an earlier version."""
        file = self.folder / "provenance.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        replace_file(self.folder / f"{name}.json", text)

    def config(self) -> Config:
        """Every setting that it was started with."""
        return load_config(self._config_file)

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return Tokenizer.load(self.folder / "tokenizer")

    def checkpoints(self) -> list[Path]:
        """Its checkpoints, oldest first."""
        return list_checkpoints(self.checkpoint_folder)

    def load_model(self) -> "GPT":
        """Builds its model with the weights and masks of the newest checkpoint."""
        from spdf_keras.model.build import build_gpt

        config = self.config()
        model = build_gpt(
            config.model,
            config.sparsity.sparsity,
            mask_seed=config.sparsity.seed,
            train=config.train,
        )
        restore_checkpoint(model, self.checkpoints()[-1])
        return model

    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to its metrics."""
        with self._metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of its metrics, in order, without a last one that is cut."""
        if not self._metrics_file.is_file():
            return
        for line in self._metrics_file.read_text("utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return  # a kill may cut the last line

    def sync_metrics(self) -> None:
        """Waits until its metrics are on the disk."""
        if self._metrics_file.is_file():
            with self._metrics_file.open("rb") as file:
                os.fsync(file.fileno())

    def forget_after(self, step: int) -> None:
        """Drops metrics of steps after `step`, which will be done again."""
        kept = [json.dumps(r) + "\n" for r in self.metrics() if r["step"] <= step]
        replace_file(self._metrics_file, "".join(kept))
