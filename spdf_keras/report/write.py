"""Writes the report of some runs."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spdf_keras import __version__
from spdf_keras.errors import InputError
from spdf_keras.files import replace_file
from spdf_keras.report.collect import collect
from spdf_keras.report.density import read_density
from spdf_keras.report.document import Document
from spdf_keras.report.groups import Group, evaluation_groups, model_labels
from spdf_keras.report.html import to_html
from spdf_keras.report.markdown import to_markdown
from spdf_keras.report.records import RunRecord
from spdf_keras.report.sections import build_sections

TITLE = "Sparse pre-training, dense fine-tuning"


@dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        html: The page; it needs no other file.
        markdown: The same as Markdown.
        pictures: The PNG files that the Markdown shows.
        runs: What it is about.
    """

    html: Path
    markdown: Path
    pictures: tuple[Path, ...]
    runs: tuple[RunRecord, ...]

    def as_json(self) -> dict[str, Any]:
        """The files, the runs by number, and every mean, in the scorers' units."""
        labels = model_labels(self.runs)
        return {
            "html": str(self.html),
            "markdown": str(self.markdown),
            "pictures": [str(picture) for picture in self.pictures],
            "runs": {run.number: run.name for run in self.runs},
            "scores": [
                {
                    "model": labels[group.model],
                    **{key: getattr(group, key) for key in _GROUP},
                    "runs": [run.number for run in group.runs],
                    "all": _scores(group, ""),
                    **{part: _scores(group, part) for part in group.parts},
                }
                for group in evaluation_groups(self.runs)
            ],
        }


def write_report(
    folders: Sequence[str | Path],
    out: str | Path,
    title: str = TITLE,
    made: datetime | None = None,
) -> Report:
    """Writes `report.html`, `report.md` and the PNG files of the latter.

    Equal runs give equal files, but for the line with the time. Each file appears
    whole, the two pages last: a report that was stopped is the one before.

    Args:
        folders: Runs, or folders that hold runs somewhere below.
        out: The folder for the files; what else is in it stays.
        title: The heading.
        made: The time to write into it; now if None.

    Returns:
        Where the files are.

    Raises:
        InputError: If a folder has no run, or a file of a run is damaged.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"`out` must name a folder. Received: '{out}', a file.")
    runs = collect(folders)
    densities = [found for run in runs if (found := read_density(run))]
    time = (made or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    document = Document(
        title,
        f"Made {time} by spdf-keras {__version__} from {len(runs)} runs.",
        build_sections(runs, densities),
    )
    markdown, page = to_markdown(document), to_html(document)
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for picture in document.pictures:
        pictures.append(out / f"{picture.name}.png")
        _replace_bytes(pictures[-1], picture.png)
    replace_file(out / "report.md", markdown)
    replace_file(out / "report.html", page)
    return Report(out / "report.html", out / "report.md", tuple(pictures), tuple(runs))


_GROUP = ("task", "split", "sparsity", "tuning", "variant")


def _scores(group: Group, part: str) -> dict[str, Any]:
    found = {name: group.score(name, part) for name in group.score_names}
    return {name: asdict(summary) for name, summary in found.items() if summary}


def _replace_bytes(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
