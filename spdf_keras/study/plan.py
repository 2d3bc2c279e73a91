"""The parts of a study, and their places in its folder.

config.toml, shards/
s75/seed0/pretrain/               a run
s75/seed0/stripped/b16_lr5e-05/   a run per trial; only the best keeps its weights
s75/seed0/stripped/search.json    the score of each trial, and the best trial
s75/seed0/kept/...                the same with the masks kept
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spdf_keras.config import StudyConfig

STRIPPED, KEPT = "stripped", "kept"


def sparsity_folder(sparsity: float) -> str:
    """Name of the folder of one sparsity.

    Example:
        >>> sparsity_folder(0.75)
        's75'
    """
    return f"s{sparsity * 100:g}"


@dataclass(frozen=True)
class Cell:
    """A pre-training.

    Attributes:
        sparsity: Sparsity of the pre-training.
        seed: Seed of masks, initial weights and data order.
    """

    sparsity: float
    seed: int

    @property
    def place(self) -> Path:
        """Its folder, inside that of the study."""
        return Path(sparsity_folder(self.sparsity)) / f"seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.sparsity:.0%} sparsity, seed {self.seed}"


@dataclass(frozen=True)
class Trial:
    """A fine-tuning at one point of the grid."""

    batch_size: int
    learning_rate: float

    @property
    def name(self) -> str:
        """Its folder, inside that of its search."""
        return f"b{self.batch_size}_lr{self.learning_rate:g}"


def cells(study: StudyConfig) -> Iterator[Cell]:
    """Lists every pre-training: all sparsities of a seed, then the next seed."""
    for seed in study.seeds:
        for sparsity in study.sparsities:
            yield Cell(sparsity, seed)


def modes(study: StudyConfig, cell: Cell) -> list[str]:
    """The ways of fine-tuning a cell: masks stripped, and kept as a baseline."""
    has_baseline = study.sparse_finetuning and cell.sparsity > 0
    return [STRIPPED, KEPT] if has_baseline else [STRIPPED]


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


def num_stages(study: StudyConfig) -> int:
    """Number of trainings and tests of the whole study.

    Example:
        >>> num_stages(StudyConfig(sparsities=(0.0, 0.5), seeds=(0,)))
        41
    """
    total = 0
    for cell in cells(study):
        trials = len(grid(study)) if searches(study, cell) else 1
        total += 1 + len(modes(study, cell)) * (trials + 1)
    return total
