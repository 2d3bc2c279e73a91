"""Sentences that a study says of its data, such as a split that is not the usual one.

A note `dart: text` is of a task; any other note is of the whole study.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from spdf_keras.config import load_config
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.errors import InputError
from spdf_keras.folders import kind_of
from spdf_keras.report.runs.records import RunRecord


@dataclass(frozen=True)
class Notes:
    """The notes of all studies of a report.

    Attributes:
        whole: Notes that are not of one task.
        tasks: Notes by task.
    """

    whole: tuple[str, ...] = ()
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)


def study_notes(runs: Iterable[RunRecord]) -> Notes:
    """Reads `study.notes` of the studies in whose folders the runs are.

    Raises:
        InputError: If the settings of a study cannot be read.
    """
    parents = [parent for run in runs for parent in run.folder.resolve().parents]
    texts: dict[str, None] = {}
    for folder in dict.fromkeys(parents):
        file = folder / "config.toml"
        if kind_of(folder) == "study" and file.is_file():
            try:
                config = load_config(file)
            except InputError as error:
                raise InputError(
                    f"The study '{folder}' cannot be read: {error} Mend its "
                    "config.toml, or copy the runs out of it."
                ) from error
            texts |= dict.fromkeys(config.study.notes)
    return sort_notes(texts)


def sort_notes(texts: Iterable[str]) -> Notes:
    """Sorts notes by the task that they begin with.

    Example:
        >>> notes = sort_notes(["dart: its dev split is divided.", "On two cores."])
        >>> notes.whole, notes.tasks
        (('On two cores.',), {'dart': ('its dev split is divided.',)})
    """
    whole: list[str] = []
    tasks: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, colon, rest = text.partition(":")
        if colon and name.strip() in TASKS:
            task = name.strip()
            tasks[task] = (*tasks.get(task, ()), rest.strip())
        else:
            whole.append(text)
    return Notes(tuple(whole), tasks)
