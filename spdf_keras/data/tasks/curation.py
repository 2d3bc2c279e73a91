r"""The Curation Corpus: a news article to its summary.

The corpus is published as links and summaries; the articles are the user's to
fetch (its repository has a scraper), so this is the layout that is read. In the
folder, or in `curation` inside it, csv files with a header, plain or `.gz`:

- `train.csv`, `validation.csv` and `test.csv`; or
- one `curation.csv`, with a column `split` that says `train`, `validation` or
  `test` in every row; or
- one `curation.csv` without it. Then a row's split is a function of its article's
  words (90 / 5 / 5 %), so that it stays where it is when rows come or go, and
  equal articles are in one split.

Columns: `article` (or `article_content`, the scraper's name) and `summary`; any
others are ignored. A row is left out and counted in `Examples.left_out` where

- it has no article, which a failed download leaves, or no summary;
- its article is an error that the scraper wrote (`Exception`, `404 Not Found`) or a
  short notice such as `Subscribe to continue reading`;
- its article is one text that three different summaries or more stand beside, in any
  of the files: no article has so many, but the page of a paywall has.

The context is the article alone: the end-of-text token after it tells where the
summary starts, in this task as in the others, so a phrase such as `TL;DR:` would
say it twice and take room from the article. How the paper wrote it is not known.
Articles are often longer than a sequence; those lose their end (`cut_context`),
never the separator or the summary.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from spdf_keras.data.public.public_file import Collection
from spdf_keras.data.tasks.files import find_file, name_of_split, read_table
from spdf_keras.data.tasks.notices import is_error
from spdf_keras.data.tasks.score_table import Score, ScoreTable
from spdf_keras.data.tasks.task import PERPLEXITY, Example, Examples, Task, gather
from spdf_keras.errors import InputError

SPLITS = {"train": "train", "validation": "validation", "test": "test"}

_ONE_FILE = "curation.csv"
_ARTICLE = ("article", "article_content")

# A text with so many different summaries is no article.
_MOST_SUMMARIES = 3


def read_curation(folder: str | Path, split: str) -> Examples:
    """Reads a split: an example per distinct article.

    Args:
        folder: Where the csv files are.
        split: `train`, `validation` or `test`.

    Raises:
        InputError: If there is no such file or it is malformed; the message
            names file and line.
    """
    name = name_of_split(SPLITS, split)
    path = find_file(folder, ["curation"], [f"{name}.csv"])
    has_all = path is None
    path = path or find_file(folder, ["curation"], [_ONE_FILE])
    if path is None:
        raise InputError(
            f"No Curation Corpus {split} data in '{folder}': expected {name}.csv or "
            f"{_ONE_FILE}, plain or .gz."
        )
    rows = list(_read_csv(path, has_all))
    repeated = _repeated(
        iter(rows) if other == path else _read_csv(other, has_all)
        for other in _files_beside(folder, path, has_all)
    )
    left_out: Counter[str] = Counter()

    def examples() -> Iterator[Example]:
        for row_split, article, summary in rows:
            if row_split not in ("", split):
                continue
            if not article or not summary:
                missing = "a summary" if article else "an article"
                left_out[f"rows without {missing}"] += 1
            elif is_error(article):
                left_out["rows with an error or a notice for an article"] += 1
            elif _key(article) in repeated:
                left_out["rows with one text for many articles"] += 1
            else:
                yield Example(article, (summary,))

    return gather(examples(), left_out, str(path))


def linearise(text: str) -> str:
    """The context of an article is the article itself."""
    return text.strip()


def split_of(article: str) -> str:
    """The split of an article in a file without a column `split`.

    Example:
        >>> split_of("The mayor  opened the bridge.")
        'train'
    """
    words = " ".join(article.split())
    number = int(hashlib.sha256(words.encode()).hexdigest(), 16) % 100
    return "train" if number < 90 else "validation" if number < 95 else "test"


def _key(article: str) -> bytes:
    words = " ".join(article.casefold().split())
    return hashlib.sha256(words.encode()).digest()


def _repeated(files: Iterator[Iterator[tuple[str, str, str]]]) -> set[bytes]:
    """The texts that stand beside many different summaries."""
    summaries: dict[bytes, set[bytes]] = {}
    for rows in files:
        for _, article, summary in rows:
            if article and summary:
                found = summaries.setdefault(_key(article), set())
                if len(found) < _MOST_SUMMARIES:
                    found.add(_key(summary))
    return {key for key, found in summaries.items() if len(found) >= _MOST_SUMMARIES}


def _files_beside(folder: str | Path, path: Path, has_all: bool) -> Sequence[Path]:
    if has_all:
        return [path]
    files = (find_file(folder, ["curation"], [f"{name}.csv"]) for name in SPLITS)
    return [file for file in files if file is not None]


def _read_csv(path: Path, has_all: bool) -> Iterator[tuple[str, str, str]]:
    """Yields split (empty where the file is of one split), article and summary."""
    table = read_table(path, _has_columns)
    header = [name.lower() for name in table.header]
    if not _has_columns(header):
        raise InputError(
            f"'{path}' must start with a header that has `article` (or "
            f"`article_content`) and `summary`. Received: {','.join(header)!r}."
        )
    article = next(header.index(name) for name in _ARTICLE if name in header)
    summary = header.index("summary")
    for line, row in table.rows:
        where = f"'{path}', line {line}"
        if len(row) != len(header):
            raise InputError(
                f"{where}: a row must have {len(header)} fields as the header "
                f"has. Received: {len(row)}."
            )
        split = ""
        if has_all and "split" in header:
            split = row[header.index("split")].strip()
            if split not in SPLITS:
                known = ", ".join(SPLITS)
                raise InputError(
                    f"{where}: the split must be one of {known}. Received: '{split}'."
                )
        elif (
            has_all and row[article].strip()
        ):  # a row without article counts in every split
            split = split_of(row[article])
        yield split, linearise(row[article]), row[summary].strip()


def _has_columns(header: list[str]) -> bool:
    return "summary" in header and any(name in header for name in _ARTICLE)


# The paper judges it by perplexity (appendix A.3) and prints no table.
_TABLE = ScoreTable(
    "",
    "Curation Corpus",
    (Score("perplexity", "Perplexity", higher_is_better=False),),
)

_PUBLIC = Collection(
    "the Curation Corpus",
    "CC BY 4.0; each article belongs to its publisher",
    "https://github.com/CurationCorp/curation-corpus",
    elsewhere="The Curation Corpus (CC BY 4.0) is published as summaries with links "
    "to the articles: follow https://github.com/CurationCorp/curation-corpus and put "
    f"both into one csv file, curation/{_ONE_FILE}.",
)

CURATION = Task(
    "curation",
    read_curation,
    linearise,
    _TABLE,
    _PUBLIC,
    protocol=PERPLEXITY,
    cut_context=True,
)
