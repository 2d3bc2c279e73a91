"""The whole path at several sparsities, stage by stage, into one folder.

Each finished stage writes a JSON file. A quickstart that was stopped goes on with the
first stage that has none.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from spdf_keras.config import Config, to_toml
from spdf_keras.data.corpus.documents import read_documents
from spdf_keras.data.samples.corpora import Corpora
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tasks.e2e import find_split, read_e2e
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.evaluation.checks import check_data
from spdf_keras.evaluation.texts import as_lines, generate_texts, write_lines
from spdf_keras.export import to_saved_model, to_tflite
from spdf_keras.files import replace_file
from spdf_keras.flops import training_flops
from spdf_keras.metrics.bleu import corpus_bleu
from spdf_keras.study.plan import sparsity_folder
from spdf_keras.study.stages import (
    Progress,
    Say,
    Stages,
    keep_settings,
    prepared_shards,
)
from spdf_keras.training.run import Run

Result = dict[str, Any]


class Quickstart:
    """Runs the stages of each sparsity.

    Args:
        folder: The folder for all results; the caller holds it (see `claim`).
        config: All settings; the sparsity comes with each call.
        corpora: The data.
        say: Gets a sentence per stage.
        progress: Gives a display for a training stage by its label.

    Raises:
        InputError: If the folder holds a quickstart of other settings or data.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        corpora: Corpora,
        say: Say,
        progress: Progress,
    ) -> None:
        self._folder, self._config, self._corpora = folder, config, corpora
        self._stages = Stages(say, progress)
        self._train, self._validation = (
            read_e2e(find_split(corpora.task, split))
            for split in ("train", "validation")
        )
        settings = f"# {corpora.title}\n{to_toml(config)}"
        keep_settings(
            folder,
            settings,
            lambda file: file.read_text("utf-8") == settings,
            "a quickstart with other settings or data",
        )

    def run(self, sparsity: float) -> Result:
        """Runs, or finishes, all stages at one sparsity.

        Returns:
            The numbers and samples that the report shows.
        """
        folder = self._folder / sparsity_folder(sparsity)
        config = dataclasses.replace(
            self._config,
            sparsity=dataclasses.replace(self._config.sparsity, sparsity=sparsity),
        )
        stages: list[tuple[str, Callable[[Path, Config], Result]]] = [
            ("pretrain", self._pretrain),
            ("finetune", self._finetune),
            ("evaluate", self._evaluate),
            ("export", self._export),
        ]
        result: Result = {"sparsity": sparsity, "folder": str(folder), "seconds": {}}
        for name, stage in stages:
            file = folder / f"{name}.json"
            self._stages.do(
                f"{sparsity:.0%} sparsity: {name}",
                file,
                partial(_record, file, partial(stage, folder, config)),
            )
            recorded = json.loads(file.read_text("utf-8"))
            result["seconds"][name] = recorded.pop("seconds")
            result.update(recorded)
        # A stage that was stopped knows only its second part; the steps know all.
        steps = Run.open(folder / "pretrain").metrics()
        seconds = sum(record.get("seconds", 0.0) for record in steps)
        result["pretrain_seconds"] = round(seconds, 1)
        return result

    def _shards(self) -> Shards:
        return prepared_shards(
            self._folder / "shards",
            self._config.model,
            lambda: read_documents([self._corpora.text]),
            self._task_text(),
        )

    def _task_text(self) -> Iterator[str]:
        for example in self._train:
            yield from (example.context, *example.references)

    def _pretrain(self, folder: Path, config: Config) -> Result:
        shards = self._shards()
        splits = {"train": self._train, "validation": self._validation}
        check_data(shards.tokenizer(), splits, config, get_task("e2e"))
        trained = self._stages.pretrain(config, shards, folder / "pretrain")
        length = shards.context_length
        ratio = training_flops(config.model, length, trained["average_sparsity"])
        ratio /= training_flops(config.model, length)
        return {
            "pretrain_loss": trained["loss"],
            "pretrain_validation_loss": trained["validation_loss"],
            "pretrain_tokens": trained["tokens"],
            "pretrain_flops": trained["flops"],
            "flops_ratio": ratio,
        }

    def _finetune(self, folder: Path, config: Config) -> Result:
        trained = self._stages.finetune(
            Run.open(folder / "pretrain"),
            self._train,
            self._validation,
            config.finetune,
            folder / "finetune",
        )
        return {
            "finetune_validation_loss": trained["validation_loss"],
            "finetune_epochs": trained["epochs"],
        }

    def _evaluate(self, folder: Path, config: Config) -> Result:
        run = Run.open(folder / "finetune")
        model, tokenizer = run.load_model(), run.tokenizer()
        contexts = [example.context for example in self._validation]
        outputs = generate_texts(model, tokenizer, contexts, config.decode)
        hypotheses = as_lines(outputs)
        write_lines(folder / "hypotheses.txt", hypotheses)
        references = [example.references for example in self._validation]
        score = corpus_bleu(hypotheses, references)
        return {
            "bleu": score.bleu,
            "signature": score.signature,
            "samples": list(zip(contexts[:3], hypotheses, strict=False)),
        }

    def _export(self, folder: Path, config: Config) -> Result:
        target = folder / "export"
        finetuned = Run.open(folder / "finetune").load_model()
        cards = {
            "saved_model": to_saved_model(
                finetuned, target / "finetuned", overwrite=True
            ),
            "tflite": to_tflite(finetuned, target / "finetuned.tflite", overwrite=True),
        }
        if config.sparsity.sparsity:  # only a sparse model has zeros to leave out
            cards["tflite_pretrained_sparse"] = to_tflite(
                Run.open(folder / "pretrain").load_model(),
                target / "pretrained_sparse.tflite",
                sparse=True,
                overwrite=True,
            )
        return {f"{name}_bytes": card.size_bytes for name, card in cards.items()}


def _record(file: Path, stage: Callable[[], Result]) -> None:
    """Runs a stage, and writes its result and its seconds into a file."""
    start = time.perf_counter()
    result = stage()
    result["seconds"] = round(time.perf_counter() - start, 1)
    replace_file(file, json.dumps(result))
