"""Writes the report of some runs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spdf_keras import __version__
from spdf_keras.files import replace_file
from spdf_keras.folders import check_is_folder, share
from spdf_keras.locks import when_free
from spdf_keras.report.content.sections import build_sections
from spdf_keras.report.numbers import numbers
from spdf_keras.report.page.document import Document
from spdf_keras.report.page.drawing import SOFTWARE
from spdf_keras.report.page.html import to_html
from spdf_keras.report.page.markdown import to_markdown
from spdf_keras.report.run_table import HEAD, run_table
from spdf_keras.report.runs.collect import collect
from spdf_keras.report.runs.density import read_density
from spdf_keras.report.runs.notes import study_notes
from spdf_keras.report.runs.records import RunRecord
from spdf_keras.report.runs.resampling import Resamples, Tell, resample

TITLE = "Sparse pre-training, dense fine-tuning"

# The line by which a report recognises an earlier one; see `write_report`.
_MADE = re.compile(rb"Made \d{4}-\d\d-\d\d \d\d:\d\d UTC by spdf-keras")


@dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        html: The page, which needs no other file.
        markdown: The same content as Markdown.
        table: The numbers of each run, as CSV.
        pictures: The PNG files that the Markdown shows.
        runs: The runs that it reports.
        resamples: Scores of their outputs over drawings of the inputs, if there are.
    """

    html: Path
    markdown: Path
    table: Path
    pictures: tuple[Path, ...]
    runs: tuple[RunRecord, ...]
    resamples: Resamples

    def as_json(self) -> dict[str, Any]:
        """The files, the runs by number, means and differences in a scorer's unit."""
        return {
            "html": str(self.html),
            "markdown": str(self.markdown),
            "table": str(self.table),
            "pictures": [str(picture) for picture in self.pictures],
            "runs": {run.number: run.name for run in self.runs},
            **numbers(self.runs, self.resamples),
        }


def write_report(
    folders: Sequence[str | Path],
    out: str | Path,
    title: str = TITLE,
    made: datetime | None = None,
    data: str | Path | None = None,
    all_scores: bool = False,
    tell: Tell | None = None,
) -> Report:
    """Writes `report.html`, `report.md` with its PNG files, and `runs.csv`.

    Equal runs give equal files, except for the line with the time. Each file is
    replaced atomically, and the two pages come last. Where another process writes into
    `out` at that moment, this one waits for it.

    Args:
        folders: Runs, or folders that hold runs somewhere below.
        out: The folder for the files; other files in it stay.
        title: The heading.
        made: The time that the report names; now if None.
        data: Folder with the tasks' files, from which differences get intervals over
            inputs; None leaves these out.
        all_scores: Whether METEOR and TER get them too, and not the main scores alone.
        tell: Gets the numbers of resampled and of all outputs files.

    Returns:
        The files and the runs.

    Raises:
        InputError: If a folder has no run, a file of a run is damaged, or a file in
            `out` is in the way.
    """
    out = Path(out)
    check_is_folder(out)
    runs = collect(folders)
    resamples = Resamples()
    if data is not None:
        resamples = resample(runs, data, all_scores, tell)
    densities = [density for run in runs if (density := read_density(run))]
    time = (made or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    document = Document(
        title,
        f"Made {time} by spdf-keras {__version__} from {len(runs)} runs.",
        build_sections(runs, densities, resamples, study_notes(runs)),
    )
    markdown, page = to_markdown(document), to_html(document)
    content: dict[str, str | bytes] = {
        **{f"{picture.name}.png": picture.png for picture in document.pictures},
        "runs.csv": run_table(runs),
        "report.md": markdown,
        "report.html": page,
    }
    with when_free(lambda: share(out, content, _is_ours)):
        for name, text in content.items():
            replace_file(out / name, text)
    pictures = tuple(out / name for name in content if name.endswith(".png"))
    files = out / "report.html", out / "report.md", out / "runs.csv"
    return Report(*files, pictures, tuple(runs), resamples)


def _is_ours(path: Path) -> bool:
    """Whether a file belongs to an earlier report: a page, or what a page has."""
    if path.name == "runs.csv":
        return path.is_file() and path.read_bytes().startswith(HEAD)
    pages = [path.parent / "report.html", path.parent / "report.md"]
    if path in pages:
        return _MADE.search(path.read_bytes()) is not None
    if path.is_file() and SOFTWARE.encode() in path.read_bytes():
        return True
    return any(page.is_file() and _is_ours(page) for page in pages)
