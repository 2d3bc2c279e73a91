"""Runs a study stage by stage; what is done is not done again."""

import dataclasses
import gc
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from spdf_keras.config import Config, FinetuneConfig, StudyConfig, load_config, to_toml
from spdf_keras.data.corpus.documents import read_documents
from spdf_keras.data.shards.prepare import write_shards
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tasks.files import find_file
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tokenizers.bpe import Tokenizer
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
from spdf_keras.training.finetune import finetune
from spdf_keras.training.pretrain import pretrain
from spdf_keras.training.run import Run

Progress = Callable[[str], AbstractContextManager[Callable[[dict[str, Any]], None]]]


class Study:
    """The protocol of appendix A, from the corpus to the scores of the test split.

    Args:
        folder: Where everything goes; see `spdf_keras.study.plan`.
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
        say: Callable[[str], None],
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
        self._done = 0
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
            self._done = 0
            for cell in cells(self._settings):
                self._pretrain(cell, shards)
                for masks in modes(self._settings, cell):
                    self._test(cell, masks, self._search(cell, masks))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Holds the folder, whose settings are written into it or found there."""
        with claim(self._folder, "study"):
            file, settings = self._folder / "config.toml", to_toml(self._config)
            if not file.is_file():
                replace_file(file, settings)
            elif load_config(file) != self._config:
                raise InputError(
                    f"The folder '{self._folder}' holds a study with other settings. "
                    "Give the same ones to go on with it, or another folder."
                )
            yield

    def _check_settings(self) -> None:
        """Refuses what a late stage would refuse: any point of the grid, the beams."""
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
        folder, model = self._folder / "shards", self._config.model
        if not (folder / "index.json").is_file():
            self._say("preparing the corpus")
            tokenizer = Tokenizer.train(self._documents(), model.vocabulary_size)
            length = model.max_sequence_length
            write_shards(self._documents(), tokenizer, length, folder)
        return Shards.open(folder)

    def _documents(self) -> Any:
        # The targets of an input are one document: they tell the same.
        targets = (" ".join(example.references) for example in self._task_text)
        return chain(read_documents(self._corpus), targets)

    def _stage(self, label: str, is_done: bool) -> bool:
        """Tells which stage comes; whether there is anything to do."""
        self._done += 1
        if not is_done:
            total = num_stages(self._settings)
            self._say(f"[{self._done} of {total}] {label}")
            # Models of earlier stages would stay in Keras's graph.
            keras.backend.clear_session()
            gc.collect()
        return not is_done

    def _pretrain(self, cell: Cell, shards: Shards) -> None:
        folder = self._folder / cell.place / "pretrain"
        if self._stage(f"{cell}: pre-train", Run(folder).result() is not None):
            sparsity = dataclasses.replace(
                self._config.sparsity, sparsity=cell.sparsity, seed=cell.seed
            )
            train = dataclasses.replace(self._config.train, seed=cell.seed)
            config = dataclasses.replace(
                self._config, sparsity=sparsity, train=train, study=StudyConfig()
            )
            with self._progress("pre-train") as report:
                pretrain(config, shards, folder, report)

    def _search(self, cell: Cell, masks: str) -> Trial:
        """The best trial of a cell, trained."""
        folder = self._folder / cell.place / masks
        file = folder / "search.json"
        trials = grid(self._settings)
        if not searches(self._settings, cell):
            first = Cell(cell.sparsity, self._settings.seeds[0])
            trials = [_best(self._folder / first.place / masks / "search.json")]
        if file.is_file():
            self._done += len(trials)
            return _best(file)
        scores = [self._try(cell, masks, trial) for trial in trials]
        best = max(range(len(trials)), key=lambda i: self._sign * scores[i])
        found = [
            {**dataclasses.asdict(trial), "score": score}
            for trial, score in zip(trials, scores, strict=True)
        ]
        content = {"best": dataclasses.asdict(trials[best]), "trials": found}
        replace_file(file, json.dumps(content, indent=2) + "\n")
        return trials[best]

    def _try(self, cell: Cell, masks: str, trial: Trial) -> float:
        """Fine-tunes at one point of the grid; its score on the validation split."""
        folder = self._folder / cell.place / masks / trial.name
        run, task = Run(folder), self._task
        record = run.evaluation_file(task.name, "validation")
        label = f"{cell}: fine-tune, masks {masks}, {trial.name}"
        if self._stage(label, record.is_file()):
            if run.result() is None:
                with self._progress("fine-tune") as report:
                    finetune(
                        Run.open(folder.parents[1] / "pretrain"),
                        self._examples["train"],
                        self._examples["validation"],
                        self._tuning(trial, cell.seed, masks),
                        folder,
                        report,
                        task.cut_context,
                        task.name,
                        None,
                        None,
                        self._say,
                    )
            decode = dataclasses.replace(
                run.config().decode, num_beams=self._settings.search_beams
            )
            config = dataclasses.replace(run.config(), decode=decode)
            examples = self._examples["validation"]
            evaluate_run(run, task, "validation", examples, config)
        value = json.loads(record.read_text("utf-8"))["scores"][self._score]
        return -math.inf * self._sign if value is None else float(value)

    def _test(self, cell: Cell, masks: str, best: Trial) -> None:
        folder = self._folder / cell.place / masks
        run = Run(folder / best.name)
        record = run.evaluation_file(self._task.name, "test")
        if self._stage(f"{cell}: test, masks {masks}", record.is_file()):
            evaluate_run(run, self._task, "test", self._examples["test"])
        # What tells of the others stays; their weights would fill a disk.
        for trial in grid(self._settings):
            if trial != best:
                Run(folder / trial.name).remove_checkpoints()


def _best(file: Path) -> Trial:
    return Trial(**json.loads(file.read_text("utf-8"))["best"])


def _spread(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """`count` of the examples, evenly spread; all of them if 0."""
    if not 0 < count < len(examples):
        return examples
    return [examples[i * len(examples) // count] for i in range(count)]
