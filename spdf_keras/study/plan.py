"""The parts of a study, and their places in its folder.

config.toml, shards/
s75/seed0/pretrain/                   a run; s75 is an arm, as each variant is
s75/seed0/e2e/stripped/b16_lr5e-05/   a run per trial; the best alone keeps weights
s75/seed0/e2e/stripped/search.json    the score of each trial, and the best trial
s75/seed0/e2e/kept/...                the same with the masks kept
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from spdf_keras.config import Config, StudyConfig
from spdf_keras.study.entries import parse_entry

STRIPPED, KEPT = "stripped", "kept"
# What may be added to a study that has begun, because no other part depends on it.
_GROWING = ("sparsities", "variants", "seeds")


def sparsity_folder(sparsity: float) -> str:
    """Name of the folder of one sparsity.

    Example:
        >>> sparsity_folder(0.75)
        's75'
    """
    return f"s{sparsity * 100:g}"


@dataclass(frozen=True)
class Arm:
    """A way of pre-training.

    Attributes:
        name: Its folder, inside that of the study.
        label: Its name in sentences.
        settings: Lines such as `sparsity.sparsity=0.75`, in which it differs.
        modes: The ways of fine-tuning it: masks stripped, and kept as a baseline.
    """

    name: str
    label: str
    settings: tuple[str, ...]
    modes: tuple[str, ...] = (STRIPPED,)


@dataclass(frozen=True)
class Cell:
    """A pre-training.

    Attributes:
        arm: Its way.
        seed: Seed of masks, initial weights and data order.
    """

    arm: Arm
    seed: int

    @property
    def place(self) -> Path:
        """Its folder, inside that of the study."""
        return Path(self.arm.name) / f"seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.arm.label}, seed {self.seed}"


@dataclass(frozen=True)
class Trial:
    """A fine-tuning at one point of the grid."""

    batch_size: int
    learning_rate: float

    @property
    def name(self) -> str:
        """Its folder, inside that of its search."""
        return f"b{self.batch_size}_lr{self.learning_rate:g}"


def arms(study: StudyConfig) -> list[Arm]:
    """Lists the sparsities, then the variants.

    Raises:
        InputError: If a variant has another form.
    """
    found = []
    for sparsity in study.sparsities:
        baseline = (KEPT,) if study.sparse_finetuning and sparsity else ()
        found.append(
            Arm(
                sparsity_folder(sparsity),
                f"{sparsity:.0%} sparsity",
                (f"sparsity.sparsity={sparsity!r}",),
                (STRIPPED, *baseline),
            )
        )
    for text in study.variants:
        sections = ("model", "sparsity", "train")
        name, settings = parse_entry("study.variants", text, sections)
        found.append(Arm(name, name, settings))
    return found


def cells(study: StudyConfig) -> Iterator[Cell]:
    """Lists every pre-training: all arms of a seed, then the next seed."""
    for seed in study.seeds:
        for arm in arms(study):
            yield Cell(arm, seed)


def grid(study: StudyConfig) -> list[Trial]:
    """Lists every point of the grid."""
    return list(
        itertools.starmap(
            Trial, itertools.product(study.batch_sizes, study.learning_rates)
        )
    )


def searches(study: StudyConfig, cell: Cell) -> bool:
    """Whether this seed searches the grid itself."""
    count = study.search_seeds or len(study.seeds)
    return study.seeds.index(cell.seed) < count


def num_stages(study: StudyConfig, cell: Cell) -> int:
    """Number of fine-tunings and tests of one pre-training on one task.

    Example:
        >>> study = StudyConfig(sparsities=(0.0, 0.5), seeds=(0,))
        >>> [num_stages(study, cell) for cell in cells(study)]
        [13, 26]
    """
    trials = len(grid(study)) if searches(study, cell) else 1
    return len(cell.arm.modes) * (trials + 1)


def continues(config: Config, before: Config, own_corpus: bool) -> bool:
    """Whether a study with other settings may go on with these.

    Sparsities, variants, seeds and tasks may be added behind those that were there,
    and notes may change.

    Args:
        config: The new settings.
        before: The settings in its folder.
        own_corpus: Whether the study prepared its corpus itself. Then it has texts of
            its tasks, to which none may be added.

    Example:
        >>> old, new = (StudyConfig(seeds=seeds) for seeds in [(0, 1), (0, 1, 2)])
        >>> continues(Config(study=new), Config(study=old), own_corpus=True)
        True
        >>> continues(Config(study=old), Config(study=new), own_corpus=True)
        False
    """
    new, old = config.study, before.study
    names: tuple[str, ...] = _GROWING
    if not (own_corpus and new.task_text):
        names += ("tasks",)
    for name in names:
        values = getattr(old, name)
        if getattr(new, name)[: len(values)] != values:
            return False
    changes = {name: getattr(new, name) for name in (*names, "notes")}
    return replace(before, study=replace(old, **changes)) == config
