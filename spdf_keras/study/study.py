"""Runs the paper's protocol, stage by stage."""

import dataclasses
import gc
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from spdf_keras.config import Config, FinetuneConfig, StudyConfig, load_config, to_toml
from spdf_keras.data.corpus.documents import read_documents
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tasks.files import find_file
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.data.tasks.task import Example
from spdf_keras.errors import InputError
from spdf_keras.evaluation.checks import check_data
from spdf_keras.evaluation.record import evaluate_run
from spdf_keras.files import replace_file
from spdf_keras.folders import claim
from spdf_keras.keras2 import keras
from spdf_keras.model.decoding.generator import check_beams
from spdf_keras.study.plan import (
    KEPT,
    Cell,
    Trial,
    cells,
    grid,
    modes,
    num_stages,
    searches,
)
from spdf_keras.study.stages import (
    Progress,
    Say,
    Stages,
    keep_settings,
    prepared_shards,
)
from spdf_keras.training.run import Run


class Study:
    """The protocol of appendix A, from the corpus to the scores of the test split.

    Args:
        folder: The folder for all results; see `spdf_keras.study.plan`.
        config: All settings.
        data: Folder with the task's files and the corpus.
        say: Gets a sentence per stage.
        progress: Gives a display for a training stage by its label.
        shards: Prepared shards to pre-train on, in place of `study.corpus`.

    Raises:
        InputError: If the folder holds a study of other settings, or data is missing.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Config,
        data: str | Path,
        say: Say,
        progress: Progress,
        shards: str | Path | None = None,
    ) -> None:
        self._folder, self._config, self._data = Path(folder), config, Path(data)
        self._say, self._progress, self._given_shards = say, progress, shards
        self._settings = config.study
        self._task = get_task(config.study.task)
        train, validation, test = (
            self._task.read(data, split) for split in ("train", "validation", "test")
        )
        self._task_text = train if config.study.task_text else []
        self._examples = {
            "train": _spread(train, config.study.train_inputs),
            "validation": _spread(validation, config.study.validation_inputs),
            "test": test,
        }
        # The main score of the task judges the search.
        main_score = self._task.table.scores[0]
        self._score = main_score.name
        self._sign = 1 if main_score.higher_is_better else -1
        if shards is None:
            self._corpus = [self._find(name) for name in self._settings.corpus]
        self._check_settings()
        with self._writing():
            pass

    def run(self) -> None:
        """Runs, or finishes, every stage.

        Raises:
            InputError: If a text or setting does not fit, before the first step, or
                another process runs the study.
        """
        with self._writing():
            shards = self._shards()
            check_data(shards.tokenizer(), self._examples, self._config, self._task)
            self._stages = Stages(self._say, self._progress, num_stages(self._settings))
            for cell in cells(self._settings):
                self._pretrain(cell, shards)
                for masks in modes(self._settings, cell):
                    self._test(cell, masks, self._search(cell, masks))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Holds the folder, after its settings are written or compared."""
        with claim(self._folder, "study"):
            keep_settings(
                self._folder,
                to_toml(self._config),
                lambda file: load_config(file) == self._config,
                "a study with other settings",
            )
            yield

    def _check_settings(self) -> None:
        """Refuses settings that a late stage would refuse, before the first stage."""
        places = [str(cell.place) for cell in cells(self._settings)]
        for names in (places, [trial.name for trial in grid(self._settings)]):
            if len(set(names)) < len(names):
                raise InputError(
                    "Values of `study.sparsities` and of `study.learning_rates` must "
                    "differ in their first six digits, which name their folders. "
                    f"Received: two for '{max(names, key=names.count)}'."
                )
        for trial in grid(self._settings):
            self._tuning(trial, 0, "")
        for beams in (self._settings.search_beams, self._config.decode.num_beams):
            decode = dataclasses.replace(self._config.decode, num_beams=beams)
            check_beams(decode, self._config.model.vocabulary_size)

    def _tuning(self, trial: Trial, seed: int, masks: str) -> FinetuneConfig:
        """The `[finetune]` settings of one point of the grid."""
        return dataclasses.replace(
            self._config.finetune,
            batch_size=trial.batch_size,
            learning_rate=trial.learning_rate,
            seed=seed,
            keep_masks=masks == KEPT,
            lora_rank=0,
        )

    def _find(self, name: str) -> Path:
        path = find_file(self._data, [], [name])
        if path is None:
            raise InputError(
                f"There is no '{name}' in '{self._data}', plain or .gz, to pre-train "
                "on. Put it there, or change `study.corpus`."
            )
        return path

    def _shards(self) -> Shards:
        if self._given_shards is not None:
            return Shards.open(self._given_shards)
        return prepared_shards(
            self._folder / "shards",
            self._config.model,
            self._documents,
            say=self._say,
        )

    def _documents(self) -> Iterator[str]:
        # All targets of an input are one document, because they say the same.
        targets = (" ".join(example.references) for example in self._task_text)
        return chain(read_documents(self._corpus), targets)

    def _do(self, label: str, record: Path, work: Callable[[], object]) -> None:
        def work_afresh() -> None:
            # Keras's graph would keep the models of earlier stages.
            keras.backend.clear_session()
            gc.collect()
            work()

        self._stages.do(label, record, work_afresh)

    def _pretrain(self, cell: Cell, shards: Shards) -> None:
        run = Run(self._folder / cell.place / "pretrain")
        sparsity = dataclasses.replace(
            self._config.sparsity, sparsity=cell.sparsity, seed=cell.seed
        )
        config = dataclasses.replace(
            self._config,
            sparsity=sparsity,
            train=dataclasses.replace(self._config.train, seed=cell.seed),
            study=StudyConfig(),
        )
        self._do(
            f"{cell}: pre-train",
            run.folder / "result.json",
            lambda: self._stages.pretrain(config, shards, run.folder),
        )

    def _search(self, cell: Cell, masks: str) -> Trial:
        """Trains every trial of a cell that is not trained, and names the best."""
        folder = self._folder / cell.place / masks
        file = folder / "search.json"
        trials = grid(self._settings)
        if not searches(self._settings, cell):
            first = Cell(cell.sparsity, self._settings.seeds[0])
            trials = [_best(self._folder / first.place / masks / "search.json")]
        if file.is_file():
            self._stages.skip(len(trials))
            return _best(file)
        scores = [self._try(cell, masks, trial) for trial in trials]
        best = max(range(len(trials)), key=lambda i: self._sign * scores[i])
        scored = [
            {**dataclasses.asdict(trial), "score": score}
            for trial, score in zip(trials, scores, strict=True)
        ]
        content = {"best": dataclasses.asdict(trials[best]), "trials": scored}
        replace_file(file, json.dumps(content, indent=2) + "\n")
        return trials[best]

    def _try(self, cell: Cell, masks: str, trial: Trial) -> float:
        """Fine-tunes one point of the grid, and scores it on the validation split."""
        folder = self._folder / cell.place
        run = Run(folder / masks / trial.name)
        record = run.evaluation_file(self._task.name, "validation")

        def work() -> None:
            if run.result() is None:
                self._stages.finetune(
                    Run.open(folder / "pretrain"),
                    self._examples["train"],
                    self._examples["validation"],
                    self._tuning(trial, cell.seed, masks),
                    run.folder,
                    cut_context=self._task.cut_context,
                    task=self._task.name,
                    tell=self._say,
                )
            config = run.config()
            decode = dataclasses.replace(
                config.decode, num_beams=self._settings.search_beams
            )
            config = dataclasses.replace(config, decode=decode)
            examples = self._examples["validation"]
            evaluate_run(run, self._task, "validation", examples, config)

        self._do(f"{cell}: fine-tune, masks {masks}, {trial.name}", record, work)
        value = json.loads(record.read_text("utf-8"))["scores"][self._score]
        return -math.inf * self._sign if value is None else float(value)

    def _test(self, cell: Cell, masks: str, best: Trial) -> None:
        folder = self._folder / cell.place / masks
        run = Run(folder / best.name)
        self._do(
            f"{cell}: test, masks {masks}",
            run.evaluation_file(self._task.name, "test"),
            lambda: evaluate_run(run, self._task, "test", self._examples["test"]),
        )
        # Logs and scores of the other trials stay; their weights would fill a disk.
        for trial in grid(self._settings):
            if trial != best:
                Run(folder / trial.name).remove_checkpoints()


def _best(file: Path) -> Trial:
    return Trial(**json.loads(file.read_text("utf-8"))["best"])


def _spread(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """Takes `count` of the examples, evenly spread; all of them if 0."""
    if not 0 < count < len(examples):
        return examples
    return [examples[i * len(examples) // count] for i in range(count)]
