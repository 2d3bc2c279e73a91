"""A run: the folder that holds everything about one training."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spdf_keras.config import Config, LoRAConfig, load_config, to_toml
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.files import replace_file
from spdf_keras.folders import claim
from spdf_keras.provenance import provenance
from spdf_keras.sparsity.algorithms.registry import settled
from spdf_keras.training.checkpoint import (
    best_checkpoint,
    checkpoint_step,
    list_checkpoints,
    remove_checkpoint,
)
from spdf_keras.training.restoring import restore_checkpoint

if TYPE_CHECKING:
    from spdf_keras.model.gpt import GPT


@dataclass(frozen=True)
class Run:
    """A run folder.

    It holds `config.toml` (every setting), `tokenizer/`, `checkpoints/`,
    `metrics.jsonl` (a line per step or validation), `tensorboard/`, and
    `provenance.json` (command, versions, hardware, and the corpus or base run). A
    finished run also has `result.json`, and an evaluated one has `evaluation/` with a
    JSON file and the outputs of each scored split.

    Attributes:
        folder: Path of the folder.
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
        """Makes a new run, which has no checkpoint yet; see `start`.

        Raises:
            InputError: If the folder holds something else, or a run with checkpoints.
        """
        run = cls(Path(folder))
        with run.writing():
            if run.checkpoints():
                raise InputError(
                    f"The folder '{folder}' is in use: choose another. It holds a run "
                    "that has checkpoints."
                )
            run.start(config, tokenizer, origin)
        return run

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the folder for one process while the block trains into it.

        Raises:
            InputError: If it holds something else than a run, or another process
                writes into it.
        """
        with claim(self.folder, "run", known=_is_earlier_run):
            yield

    def start(
        self, config: Config, tokenizer: Tokenizer, origin: dict[str, Any]
    ) -> None:
        """Writes the files of a new run before its first step; call it in `writing`.

        It replaces the files of a run that was stopped before its first checkpoint.

        Args:
            config: Every setting.
            tokenizer: The tokenizer, which is copied into the run.
            origin: `kind` and further content of `provenance.json`.
        """
        for file in (self._metrics_file, self._result_file):
            file.unlink(missing_ok=True)
        tokenizer.save(self.folder / "tokenizer")
        self._write_json("provenance", {**origin, **provenance()})
        self.write_config(config)

    def write_config(self, config: Config) -> None:
        """Records the settings, unless the file has the same settings already."""
        with contextlib.suppress(InputError):
            if self.config() == config:
                return  # the file may be a user's text, with comments
        replace_file(self._config_file, to_toml(config))

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
    def _result_file(self) -> Path:
        return self.folder / "result.json"

    @property
    def checkpoint_folder(self) -> Path:
        """Path of the folder of checkpoints."""
        return self.folder / "checkpoints"

    def evaluation_file(self, task: str, split: str) -> Path:
        """Returns the file of a split's scores; the outputs are in `.txt` beside it."""
        return self.folder / "evaluation" / f"{task}_{split}.json"

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Records the result, which makes the run a finished one."""
        self._write_json("result", result)
        return result

    def result(self) -> dict[str, Any] | None:
        """Returns the result that `finish` recorded; None for an unfinished run."""
        file = self._result_file
        return json.loads(file.read_text("utf-8")) if file.is_file() else None

    def reopen(self, origin: dict[str, Any]) -> None:
        """Makes a finished run unfinished again, for more steps.

        Args:
            origin: The new content of `provenance.json`.
        """
        self._write_json("provenance", origin)
        self._result_file.unlink(missing_ok=True)

    def caution(self) -> str:
        """Returns a warning that the run is not finished; empty for a finished run."""
        if self.result() is not None:
            return ""
        total = self.origin().get("total_steps")
        step = f"{checkpoint_step(self.checkpoint()):,}"
        return (
            f"The run '{self.folder}' is not finished: its checkpoint of step {step}"
            f"{f' of {total:,}' if total else ''} is used. The command that started "
            "the run goes on with it."
        )

    def origin(self) -> dict[str, Any]:
        """Returns the content of `provenance.json`; empty if there is none."""
        file = self.folder / "provenance.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        replace_file(self.folder / f"{name}.json", text)

    def config(self) -> Config:
        """Returns every setting of the run."""
        return load_config(self._config_file)

    def tokenizer(self) -> Tokenizer:
        """Loads the run's tokenizer."""
        return Tokenizer.load(self.folder / "tokenizer")

    def checkpoints(self) -> list[Path]:
        """Returns the run's checkpoints, oldest first."""
        return list_checkpoints(self.checkpoint_folder)

    def checkpoint(self) -> Path:
        """Returns the checkpoint that other commands use.

        It is the newest one; for a fine-tuning, it is that of the best epoch so far.

        Raises:
            InputError: If there is none yet.
        """
        checkpoints = self.checkpoints()
        if not checkpoints:
            raise InputError(f"The run '{self.folder}' has no checkpoint yet.")
        best = None
        if self.origin().get("kind") == "finetune":
            best = best_checkpoint(self.checkpoint_folder)
        return best or checkpoints[-1]

    def remove_checkpoints(self, keep: Path | None = None) -> None:
        """Removes all checkpoints except `keep`."""
        for checkpoint in self.checkpoints():
            if checkpoint != keep:
                remove_checkpoint(checkpoint)
        with contextlib.suppress(OSError):  # the folder is not empty, or missing
            self.checkpoint_folder.rmdir()

    def adapter_settings(self) -> LoRAConfig | None:
        """Returns the settings of the run's adapter; None without one."""
        # A pre-training may have settings for fine-tunings to come.
        is_finetuned = self.origin().get("kind") == "finetune"
        return self.config().finetune.lora if is_finetuned else None

    def require_no_adapter(self) -> None:
        """Refuses a run with an adapter, where weights must be all there is.

        Raises:
            InputError: If it has one.
        """
        if self.adapter_settings() is not None:
            raise InputError(
                f"The run must be one without an adapter. Received: '{self.folder}', a "
                "fine-tuning with LoRA. Merge it with `spdf-keras merge`, and take the "
                "new run."
            )

    def load_model(self) -> "GPT":
        """Builds the run's model with the weights and masks of `checkpoint`.

        It has the run's adapter. It is not compiled: generation, evaluation and export
        use no optimizer.
        """
        from spdf_keras.model.build import configured_gpt

        config = self.config()
        masks = settled(config.sparsity)
        model = configured_gpt(
            dataclasses.replace(config, sparsity=masks), self.adapter_settings()
        )
        restore_checkpoint(model, self.checkpoint())
        return model

    def log(self, record: dict[str, Any]) -> None:
        """Appends a record to the run's metrics."""
        with self._metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yields the records of the metrics in order, without an incomplete last."""
        if not self._metrics_file.is_file():
            return
        for line in self._metrics_file.read_text("utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return  # a killed process may leave an incomplete last line

    def sync_metrics(self) -> None:
        """Waits until the metrics are on the disk."""
        if self._metrics_file.is_file():
            with self._metrics_file.open("rb") as file:
                os.fsync(file.fileno())

    def forget_after(self, step: int) -> None:
        """Drops the records of steps after `step`, which will be done again."""
        kept = [json.dumps(r) + "\n" for r in self.metrics() if r["step"] <= step]
        replace_file(self._metrics_file, "".join(kept))


def _is_earlier_run(folder: Path) -> bool:
    """Whether a folder without a mark is the run of an earlier version."""
    run = Run(folder)
    parts = (folder / "tokenizer" / "vocab.json", run._config_file, run._metrics_file)
    if not all(part.is_file() for part in parts):
        return False
    return any((path / "state.json").is_file() for path in run.checkpoints())
