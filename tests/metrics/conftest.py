"""Cases with the scores that the official programs gave them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.data.tasks.parts import read_parts
from spdf_keras.data.tasks.references import read_lines, read_references


@dataclass(frozen=True)
class Case:
    """A case: `scores` are those of its file, `segments` has a column per score."""

    protocol: str
    hypotheses: list[str]
    references: list[list[str]]
    parts: list[str] | None
    scores: dict[str, Any]
    segments: dict[str, list[float | None]]


@pytest.fixture(scope="session")
def read_case(real_data: Path) -> Callable[..., Case]:
    """Reads a case by its name; `kind` is `.ptb` or `.nltk` for its tokenised text.

    Each case is read once: tests share it and must not change it.
    """

    @cache
    def read(name: str, kind: str = "") -> Case:
        folder = real_data / "scorer_cases" / name
        document = json.loads((folder / "scores.json").read_text())
        hypotheses = read_lines(folder / f"hypotheses{kind}.txt.gz")
        single = folder / f"references{kind}.txt.gz"
        several = sorted(folder.glob(f"reference?{kind}.txt.gz"))
        parts = folder / "items.tsv.gz"
        header, *rows = [
            line.split("\t") for line in read_lines(folder / "segments.tsv.gz")
        ]
        columns = zip(*rows, strict=True)
        return Case(
            document["protocol"],
            hypotheses,
            read_references([single] if single.exists() else several, len(hypotheses)),
            read_parts(parts, len(hypotheses)) if parts.exists() else None,
            document["scores"],
            {
                title: [float(value) if value else None for value in column]
                for title, column in zip(header, columns, strict=True)
            },
        )

    return read
