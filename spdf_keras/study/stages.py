"""The stages that a study and a quickstart, which is a small study, have in common.

A stage that is done has written a file, and is not done again.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import Any

from spdf_keras.config import Config, FinetuneConfig, GPTConfig
from spdf_keras.data.shards.prepare import write_shards
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.files import replace_file
from spdf_keras.training.finetune import finetune
from spdf_keras.training.pretrain import pretrain
from spdf_keras.training.run import Run

Say = Callable[[str], None]
Progress = Callable[[str], AbstractContextManager[Callable[[dict[str, Any]], None]]]


class Stages:
    """Does the stages that are not done, and says which one begins.

    Args:
        say: Gets a sentence per stage.
        progress: Gives a display for a training by its label.
        total: Number of stages, by which the sentences count; 0 does not count.

    Attributes:
        has_worked: Whether a stage was not done before.
    """

    def __init__(self, say: Say, progress: Progress, total: int = 0) -> None:
        self._say, self._progress, self._total = say, progress, total
        self._number = 0
        self.has_worked = False

    def do(self, label: str, record: Path, work: Callable[[], object]) -> None:
        """Does `work`, unless `record`, the file that it writes at its end, exists."""
        self._number += 1
        if not record.is_file():
            count = f"[{self._number} of {self._total}] " if self._total else ""
            self._say(f"{count}{label}")
            self.has_worked = True
            work()

    def start_at(self, number: int) -> None:
        """Counts from here on, behind `number` stages."""
        self._number = number

    def skip(self, count: int) -> None:
        """Counts stages that need not even be looked at."""
        self._number += count

    def pretrain(self, config: Config, shards: Shards, folder: Path) -> dict[str, Any]:
        """Pre-trains, or goes on with it, and shows the progress."""
        with self._progress("pre-train") as report:
            return pretrain(config, shards, folder, report=report)

    def finetune(
        self,
        base: Run,
        train: Sequence[Example],
        validation: Sequence[Example],
        settings: FinetuneConfig,
        folder: Path,
        **options: Any,
    ) -> dict[str, Any]:
        """Fine-tunes, or goes on with it, and shows the progress.

        The arguments are those of `spdf_keras.finetune`.
        """
        with self._progress("fine-tune") as report:
            return finetune(
                base, train, validation, settings, folder, report=report, **options
            )


def keep_settings(
    folder: Path, settings: str, is_same: Callable[[Path], bool], other: str
) -> None:
    """Writes the settings into a new folder; compares them with those in an old one.

    Args:
        folder: The folder of the study.
        settings: The text of `config.toml`.
        is_same: Whether the file that is there has these settings.
        other: What the folder holds if it has not, for the error.

    Raises:
        InputError: If the folder has other settings.
    """
    file = folder / "config.toml"
    if not file.is_file():
        replace_file(file, settings)
    elif not is_same(file):
        raise InputError(
            f"The folder '{folder}' holds {other}. Give the same ones to go on with "
            "it, or another folder."
        )


def prepared_shards(
    folder: Path,
    model: GPTConfig,
    documents: Callable[[], Iterable[str]],
    more_texts: Iterable[str] = (),
    say: Say | None = None,
    length: int = 0,
) -> Shards:
    """Opens the shards in a folder, which are written first if they are missing.

    Args:
        folder: The folder of the shards.
        model: Its vocabulary size and context are used.
        documents: Reads the corpus from its start.
        more_texts: Texts on which the tokenizer is trained as well.
        say: Gets a sentence if the shards are written.
        length: Tokens per sequence; 0 is the model's context.
    """
    if not (folder / "index.json").is_file():
        if say:
            say("preparing the corpus")
        texts = chain(documents(), more_texts)
        tokenizer = Tokenizer.train(texts, model.vocabulary_size)
        length = length or model.max_sequence_length
        write_shards(documents(), tokenizer, length, folder)
    return Shards.open(folder)
