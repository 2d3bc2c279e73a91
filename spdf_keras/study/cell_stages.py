"""The stages of one pre-training of a study, and of the fine-tunings after it."""

import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path

from spdf_keras.config import Config, FinetuneConfig, StudyConfig, config_from_tables
from spdf_keras.data.shards.reader import Shards
from spdf_keras.evaluation.record import evaluate_run
from spdf_keras.files import replace_file
from spdf_keras.keras2 import keras
from spdf_keras.study.operations import with_equal_operations
from spdf_keras.study.plan import KEPT, Arm, Cell, Trial, grid, searches
from spdf_keras.study.stages import Say, Stages
from spdf_keras.study.targets import Target
from spdf_keras.training.run import Run


def arm_config(config: Config, arm: Arm, seed: int) -> Config:
    """The settings of a pre-training, as if operations were not made equal.

    Args:
        config: The settings of the study.
        arm: The way of pre-training.
        seed: Seed of masks, initial weights and data order.
    """
    own = config_from_tables({}, arm.settings, config)
    return dataclasses.replace(
        own,
        sparsity=dataclasses.replace(own.sparsity, seed=seed),
        train=dataclasses.replace(own.train, seed=seed),
        study=StudyConfig(),
    )


def tuning(target: Target, trial: Trial, seed: int, masks: str) -> FinetuneConfig:
    """The `[finetune]` settings of one point of the grid."""
    return dataclasses.replace(
        target.config.finetune,
        batch_size=trial.batch_size,
        learning_rate=trial.learning_rate,
        seed=seed,
        keep_masks=masks == KEPT,
        lora_rank=0,
    )


class CellStages:
    """Pre-trains, fine-tunes and tests, each unless its record exists.

    Args:
        folder: The folder of the study.
        config: Its settings.
        stages: Says which stage begins, and does it.
        say: Gets sentences from within a stage.
    """

    def __init__(self, folder: Path, config: Config, stages: Stages, say: Say) -> None:
        self._folder, self._config = folder, config
        self._stages, self._say = stages, say
        self._settings = config.study

    def is_searched(self, cell: Cell, target: Target) -> bool:
        """Whether the trials that a cell takes are known."""
        if searches(self._settings, cell):
            return True
        first = Cell(cell.arm, self._settings.seeds[0])
        files = (self._search_file(first, target, masks) for masks in cell.arm.modes)
        return all(file.is_file() for file in files)

    def pretrain(self, cell: Cell, shards: Shards) -> None:
        """Pre-trains."""
        run = Run(self._folder / cell.place / "pretrain")
        config = arm_config(self._config, cell.arm, cell.seed)
        if self._settings.equal_operations:
            dense = dataclasses.replace(self._config.sparsity, sparsity=0.0)
            whole = dataclasses.replace(self._config, sparsity=dense)
            config = with_equal_operations(config, whole, shards.context_length)
        self._do(
            f"{cell}: pre-train",
            run.folder / "result.json",
            lambda: self._stages.pretrain(config, shards, run.folder),
        )

    def search(self, cell: Cell, target: Target, masks: str) -> Trial:
        """Trains every trial of a cell that is not trained, and names the best."""
        file = self._search_file(cell, target, masks)
        trials = grid(self._settings)
        if not searches(self._settings, cell):
            first = Cell(cell.arm, self._settings.seeds[0])
            trials = [_best(self._search_file(first, target, masks))]
        if file.is_file():
            self._stages.skip(len(trials))
            return _best(file)
        merits = [self._try(cell, target, masks, trial) for trial in trials]
        best = max(range(len(trials)), key=merits.__getitem__)
        scored = [
            {**dataclasses.asdict(trial), "score": target.sign * merit}
            for trial, merit in zip(trials, merits, strict=True)
        ]
        content = {"best": dataclasses.asdict(trials[best]), "trials": scored}
        replace_file(file, json.dumps(content, indent=2) + "\n")
        return trials[best]

    def _try(self, cell: Cell, target: Target, masks: str, trial: Trial) -> float:
        """Fine-tunes one point of the grid, and scores it on the validation split."""
        task, examples = target.task, target.examples
        run = Run(self._place(cell, target, masks) / trial.name)
        record = run.evaluation_file(task.name, "validation")

        def work() -> None:
            if run.result() is None:
                self._stages.finetune(
                    Run.open(self._folder / cell.place / "pretrain"),
                    examples["train"],
                    examples["validation"],
                    tuning(target, trial, cell.seed, masks),
                    run.folder,
                    cut_context=task.cut_context,
                    task=task.name,
                    decode=target.config.decode,
                    tell=self._say,
                )
            config = run.config()
            decode = dataclasses.replace(
                config.decode, num_beams=self._settings.search_beams
            )
            config = dataclasses.replace(config, decode=decode)
            evaluate_run(run, task, "validation", examples["validation"], config)

        where = f"{cell}: {task.name}"
        self._do(f"{where}, fine-tune, masks {masks}, {trial.name}", record, work)
        return target.merit(json.loads(record.read_text("utf-8")))

    def test(self, cell: Cell, target: Target, masks: str, best: Trial) -> None:
        """Scores the best trial on the test split, and removes the other weights."""
        folder, task = self._place(cell, target, masks), target.task
        run = Run(folder / best.name)
        self._do(
            f"{cell}: {task.name}, test, masks {masks}",
            run.evaluation_file(task.name, "test"),
            lambda: evaluate_run(run, task, "test", target.examples["test"]),
        )
        # Logs and scores of the other trials stay; their weights would fill a disk.
        for trial in grid(self._settings):
            if trial != best:
                Run(folder / trial.name).remove_checkpoints()

    def _do(self, label: str, record: Path, work: Callable[[], object]) -> None:
        def work_afresh() -> None:
            # Keras's graph would keep the models of earlier stages.
            keras.backend.clear_session()
            gc.collect()
            work()

        self._stages.do(label, record, work_afresh)

    def _place(self, cell: Cell, target: Target, masks: str) -> Path:
        return self._folder / cell.place / target.task.name / masks

    def _search_file(self, cell: Cell, target: Target, masks: str) -> Path:
        return self._place(cell, target, masks) / "search.json"


def _best(file: Path) -> Trial:
    return Trial(**json.loads(file.read_text("utf-8"))["best"])
