"""Runs the paper's protocol, stage by stage."""

import dataclasses
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate, chain
from pathlib import Path

from spdf_keras.config import (
    Config,
    FinetuneConfig,
    StudyConfig,
    config_from_tables,
    load_config,
    to_toml,
)
from spdf_keras.data.corpus.documents import read_documents
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tasks.files import find_file
from spdf_keras.errors import BusyError, InputError
from spdf_keras.evaluation.checks import check_data
from spdf_keras.evaluation.record import evaluate_run
from spdf_keras.files import replace_file
from spdf_keras.folders import LOCK, claim
from spdf_keras.keras2 import keras
from spdf_keras.locks import lock
from spdf_keras.model.decoding.generator import check_beams
from spdf_keras.study.operations import with_equal_operations
from spdf_keras.study.plan import (
    KEPT,
    Arm,
    Cell,
    Trial,
    arms,
    cells,
    grid,
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
from spdf_keras.study.targets import Target, read_targets
from spdf_keras.training.run import Run

# Seconds until a process looks again whether another one has left a place.
_PAUSE = 2.0


class Study:
    """The protocol of appendix A, from the corpus to the scores of the test split.

    One task is finished for all pre-trainings before the next begins. Several
    processes may run one study: each takes the pre-trainings that no other holds.

    Args:
        folder: The folder for all results; see `spdf_keras.study.plan`.
        config: All settings.
        data: Folder with the files of the tasks and of the corpus.
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
        self._cells = list(cells(config.study))
        self._targets = read_targets(config, data)
        if shards is None:
            self._corpus = [self._find(name) for name in self._settings.corpus]
        self._check_settings()
        with self._writing():
            pass

    def run(self) -> None:
        """Runs, or finishes, every stage, and waits for those of other processes.

        Raises:
            InputError: If a text or setting does not fit, before the first step.
        """
        with self._writing():
            shards = self._shards()
        self._check_data(shards)
        parts = [(cell, target) for target in self._targets for cell in self._cells]
        counts = [self._num_stages(*part) for part in parts]
        starts = list(accumulate(counts, initial=0))
        self._stages = Stages(self._say, self._progress, starts[-1])
        waiting, told = list(zip(parts, starts, strict=False)), False
        while waiting:
            left = [
                (part, start)
                for part, start in waiting
                if not self._do_part(*part, start, shards)
            ]
            if len(left) == len(waiting):
                if not told:
                    self._say(f"waiting for another process: {left[0][0][0]}")
                told = True
                time.sleep(_PAUSE)
            waiting = left

    def _num_stages(self, cell: Cell, target: Target) -> int:
        """Number of stages of a part; the first task's has the pre-training."""
        return num_stages(self._settings, cell) + (target is self._targets[0])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Holds the folder, after its settings are written or compared."""
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(claim(self._folder, "study"))
                    break
                except BusyError:  # another process starts, or prepares the corpus
                    time.sleep(_PAUSE)
            keep_settings(
                self._folder,
                to_toml(self._config),
                lambda file: load_config(file) == self._config,
                "a study with other settings",
            )
            yield

    def _check_settings(self) -> None:
        """Refuses settings that a late stage would refuse, before the first stage."""
        places = [str(cell.place) for cell in self._cells]
        for names in (places, [trial.name for trial in grid(self._settings)]):
            if len(set(names)) < len(names):
                raise InputError(
                    "Values of `study.sparsities` and of `study.learning_rates` must "
                    "differ in their first six digits, and `study.variants` in their "
                    "names, because these name their folders. "
                    f"Received: two for '{max(names, key=names.count)}'."
                )
        for arm in arms(self._settings):
            model = self._arm_config(arm, 0).model
            for target in self._targets:
                for trial in grid(self._settings):
                    self._tuning(target, trial, 0, "")
                for beams in (
                    self._settings.search_beams,
                    target.config.decode.num_beams,
                ):
                    decode = dataclasses.replace(target.config.decode, num_beams=beams)
                    check_beams(decode, model.vocabulary_size)

    def _check_data(self, shards: Shards) -> None:
        models = {self._arm_config(arm, 0).model for arm in arms(self._settings)}
        sizes = {(m.max_sequence_length, m.vocabulary_size): m for m in models}
        for model in sizes.values():
            for target in self._targets:
                config = dataclasses.replace(target.config, model=model)
                tokenizer = shards.tokenizer()
                check_data(tokenizer, target.examples, config, target.task)

    def _arm_config(self, arm: Arm, seed: int) -> Config:
        """The settings of a pre-training, as if operations were not made equal."""
        config = config_from_tables({}, arm.settings, self._config)
        return dataclasses.replace(
            config,
            sparsity=dataclasses.replace(config.sparsity, seed=seed),
            train=dataclasses.replace(config.train, seed=seed),
            study=StudyConfig(),
        )

    def _tuning(
        self, target: Target, trial: Trial, seed: int, masks: str
    ) -> FinetuneConfig:
        """The `[finetune]` settings of one point of the grid."""
        return dataclasses.replace(
            target.config.finetune,
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
            length=self._settings.sequence_length,
        )

    def _documents(self) -> Iterator[str]:
        # A few texts stand in the training split of one task and in a test split.
        tested = {
            text.strip()
            for target in self._targets
            for example in target.examples["test"]
            for text in example.references
        }
        # All targets of an input are one document, because they say the same.
        targets = (
            " ".join(text for text in example.references if text.strip() not in tested)
            for target in self._targets
            for example in target.text
        )
        return chain(read_documents(self._corpus), filter(None, targets))

    def _do_part(self, cell: Cell, target: Target, number: int, shards: Shards) -> bool:
        """Does all stages of a pre-training for one task, unless it has to wait.

        Args:
            cell: The pre-training, which is done first.
            target: The task.
            number: Number of the stages before the first.
            shards: The corpus.

        Returns:
            Whether they are done; False if another process holds the pre-training, or
            has not yet found the trial that is taken.
        """
        first = Cell(cell.arm, self._settings.seeds[0])
        if not searches(self._settings, cell) and not all(
            self._search_file(first, target, masks).is_file()
            for masks in cell.arm.modes
        ):
            return False
        folder = self._folder / cell.place
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(lock(folder / LOCK, f"The folder '{folder}'"))
            except BusyError:
                return False
            self._stages.start_at(number)
            if target is self._targets[0]:
                self._pretrain(cell, shards)
            for masks in cell.arm.modes:
                best = self._search(cell, target, masks)
                self._test(cell, target, masks, best)
        return True

    def _do(self, label: str, record: Path, work: Callable[[], object]) -> None:
        def work_afresh() -> None:
            # Keras's graph would keep the models of earlier stages.
            keras.backend.clear_session()
            gc.collect()
            work()

        self._stages.do(label, record, work_afresh)

    def _pretrain(self, cell: Cell, shards: Shards) -> None:
        run = Run(self._folder / cell.place / "pretrain")
        config = self._arm_config(cell.arm, cell.seed)
        if self._settings.equal_operations:
            dense = dataclasses.replace(self._config.sparsity, sparsity=0.0)
            whole = dataclasses.replace(self._config, sparsity=dense)
            config = with_equal_operations(config, whole, shards.context_length)
        self._do(
            f"{cell}: pre-train",
            run.folder / "result.json",
            lambda: self._stages.pretrain(config, shards, run.folder),
        )

    def _place(self, cell: Cell, target: Target, masks: str) -> Path:
        return self._folder / cell.place / target.task.name / masks

    def _search_file(self, cell: Cell, target: Target, masks: str) -> Path:
        return self._place(cell, target, masks) / "search.json"

    def _search(self, cell: Cell, target: Target, masks: str) -> Trial:
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
                    self._tuning(target, trial, cell.seed, masks),
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

    def _test(self, cell: Cell, target: Target, masks: str, best: Trial) -> None:
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


def _best(file: Path) -> Trial:
    return Trial(**json.loads(file.read_text("utf-8"))["best"])
