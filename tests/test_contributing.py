"""`CONTRIBUTING.md` names files and targets that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
# `a/b.py` and `a/b/`; NAME and FORMAT stand for what a reader adds.
PLACES = sorted(
    {
        place
        for place in re.findall(r"`([\w./]+(?:\.(?:py|h|cpp|md|toml)|/))`", TEXT)
        if "NAME" not in place and "FORMAT" not in place
    }
)


@pytest.mark.parametrize("place", PLACES)
def test_a_named_file_exists(place: str) -> None:
    tops = ("spdf_keras", "export", "tests", "benchmarks", "docs", "examples")
    found = (ROOT / place).exists() or any(
        path.match(place) for top in tops for path in (ROOT / top).rglob("*")
    )
    assert found, place


def test_the_named_targets_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"\bmake ([a-z-]+)", TEXT)) - {"are"}
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert {"test", "lint", "quickstart"} <= named <= targets
