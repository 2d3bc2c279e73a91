"""The corpora that the quickstart runs on."""

from dataclasses import dataclass
from pathlib import Path

from spdf_keras.data.samples.restaurants import (
    generate_restaurants,
    pretraining_text,
    write_csv,
)
from spdf_keras.data.tasks.e2e import FILES, find_split
from spdf_keras.data.tasks.files import find_file
from spdf_keras.errors import InputError
from spdf_keras.files import replace_file

_RESTAURANTS = {"train": (1200, 1), "validation": (300, 2)}
_DOCUMENTS = 4_000
_WIKITEXT = ("wikitext2/train.txt", "wikitext-2/wiki.train.tokens", "wiki.train.tokens")


@dataclass(frozen=True)
class Corpora:
    """The text and the task of a quickstart.

    Attributes:
        title: Their name in the report.
        text: The file to pre-train on.
        task: The folder with the E2E files.
    """

    title: str
    text: Path
    task: Path

    @classmethod
    def find(cls, folder: str | Path) -> "Corpora":
        """Finds WikiText-2 and the E2E csv files in a folder of real data.

        Raises:
            InputError: If one is missing; the message names the file.
        """
        for split in ("train", "validation"):
            find_split(folder, split)
        candidate = find_file(folder, [], _WIKITEXT)
        if candidate:
            return cls("WikiText-2 and E2E", candidate, Path(folder))
        raise InputError(
            f"No WikiText-2 in '{folder}': expected {_WIKITEXT[0]}, plain or .gz."
        )

    @classmethod
    def write(cls, folder: str | Path) -> "Corpora":
        """Writes the embedded corpus, where it is not there yet."""
        folder = Path(folder)
        text = folder / "pretraining.txt"
        if not text.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for split, (count, seed) in _RESTAURANTS.items():
                write_csv(generate_restaurants(count, seed), folder / FILES[split])
            replace_file(text, "\n\n".join(pretraining_text(_DOCUMENTS, 0)))
        return cls("the embedded restaurant corpus", text, folder)
