"""Runs the paper's protocol, stage by stage."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate, chain
from pathlib import Path

from spdf_keras.config import Config, load_config, to_toml
from spdf_keras.data.corpus.documents import read_documents
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tasks.files import find_file
from spdf_keras.errors import BusyError, InputError
from spdf_keras.evaluation.checks import check_data
from spdf_keras.files import replace_file
from spdf_keras.folders import LOCK, claim
from spdf_keras.locks import PAUSE_SECONDS, lock, when_free
from spdf_keras.model.decoding.generator import check_beams
from spdf_keras.study.cell_stages import CellStages, arm_config, tuning
from spdf_keras.study.plan import Cell, arms, cells, continues, grid, num_stages
from spdf_keras.study.stages import (
    Progress,
    Say,
    Stages,
    keep_settings,
    prepared_shards,
)
from spdf_keras.study.targets import Target, read_targets


class Study:
    """The protocol of appendix A, from the corpus to the scores of the test split.

    One task is finished for all pre-trainings before the next begins. Several
    processes may run one study: each takes the pre-trainings that no other holds.
    One that is given the first seeds alone, or the first sparsities or variants, does
    that part of it.

    Args:
        folder: The folder for all results; see `spdf_keras.study.plan`.
        config: All settings.
        data: Folder with the files of the tasks and of the corpus.
        say: Gets a sentence per stage.
        progress: Gives a display for a training stage by its label.
        shards: Prepared shards to pre-train on, in place of `study.corpus`.
        renew: Called after a pre-training with its fine-tunings, if others follow. It
            may start the process anew, whose memory still has the programs that XLA
            has compiled.

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
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._config, self._data = Path(folder), config, Path(data)
        self._renew = renew
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
        targets: Sequence[Target | None] = self._targets or [None]
        parts = [(cell, target) for target in targets for cell in self._cells]
        counts = [self._num_stages(*part) for part in parts]
        starts = list(accumulate(counts, initial=0))
        self._stages = Stages(self._say, self._progress, starts[-1])
        self._work = CellStages(self._folder, self._config, self._stages, self._say)
        waiting, told = list(zip(parts, starts, strict=False)), False
        while waiting:
            left = []
            for number, (part, start) in enumerate(waiting, 1):
                if not self._do_part(*part, start, shards):
                    left.append((part, start))
                elif self._stages.has_worked and len(left) + len(waiting) > number:
                    self._renew()
            if len(left) == len(waiting):
                if not told:
                    self._say(f"waiting for another process: {left[0][0][0]}")
                told = True
                time.sleep(PAUSE_SECONDS)
            waiting = left

    def _num_stages(self, cell: Cell, target: Target | None) -> int:
        """Number of stages of a part; the first task's has the pre-training."""
        if target is None:
            return 1
        return num_stages(self._settings, cell) + (target is self._targets[0])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Holds the folder, after its settings are written or compared."""
        # Another process holds it while it starts, or prepares the corpus.
        with when_free(lambda: claim(self._folder, "study")):
            file, settings = self._folder / "config.toml", to_toml(self._config)
            own_corpus = self._given_shards is None

            def grows(old: Path) -> bool:
                return continues(self._config, load_config(old), own_corpus)

            def is_part(old: Path) -> bool:
                return continues(load_config(old), self._config, own_corpus)

            keep_settings(
                self._folder,
                settings,
                lambda old: grows(old) or is_part(old),
                "a study with other settings",
            )
            if file.read_text("utf-8") != settings and grows(file):
                replace_file(file, settings)
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
            model = arm_config(self._config, arm, 0).model
            for target in self._targets:
                for trial in grid(self._settings):
                    tuning(target, trial, 0, "")
                for beams in (
                    self._settings.search_beams,
                    target.config.decode.num_beams,
                ):
                    decode = dataclasses.replace(target.config.decode, num_beams=beams)
                    check_beams(decode, model.vocabulary_size)

    def _check_data(self, shards: Shards) -> None:
        models = {
            arm_config(self._config, arm, 0).model for arm in arms(self._settings)
        }
        sizes = {(m.max_sequence_length, m.vocabulary_size): m for m in models}
        for model in sizes.values():
            for target in self._targets:
                config = dataclasses.replace(target.config, model=model)
                tokenizer = shards.tokenizer()
                check_data(tokenizer, target.examples, config, target.task)

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

    def _do_part(
        self, cell: Cell, target: Target | None, number: int, shards: Shards
    ) -> bool:
        """Does all stages of a pre-training for one task, unless it has to wait.

        Args:
            cell: The pre-training, which is done first.
            target: The task; None if there is no task.
            number: Number of the stages before the first.
            shards: The corpus.

        Returns:
            Whether they are done; False if another process holds the pre-training, or
            has not yet found the trial that is taken.
        """
        if target is not None and not self._work.is_searched(cell, target):
            return False
        folder = self._folder / cell.place
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(lock(folder / LOCK, f"The folder '{folder}'"))
            except BusyError:
                return False
            self._stages.start_at(number)
            if target in (None, *self._targets[:1]):
                self._work.pretrain(cell, shards)
            if target is not None:
                for masks in cell.arm.modes:
                    best = self._work.search(cell, target, masks)
                    self._work.test(cell, target, masks, best)
        return True
