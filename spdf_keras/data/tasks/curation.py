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
others are ignored. A row without an article, which a failed download leaves, or
without a summary is left out and counted in `Examples.left_out`.

The context is the article alone: the end-of-text token after it tells where the
summary starts, in this task as in the others, so a phrase such as `TL;DR:` would
say it twice and take room from the article. How the paper wrote it is not known.
Articles are often longer than a sequence; those lose their end (`cut_context`),
never the separator or the summary.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from spdf_keras.data.corpus import open_text
from spdf_keras.data.tasks.files import find_file, name_of_split
from spdf_keras.data.tasks.task import Example, Examples, Task, gather
from spdf_keras.errors import InputError

SPLITS = {"train": "train", "validation": "validation", "test": "test"}

_ONE_FILE = "curation.csv"
_ARTICLE = ("article", "article_content")
# The csv module refuses longer fields; its own default is less than some articles.
_LONGEST_FIELD = 2**27


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
    left_out: Counter[str] = Counter()

    def rows() -> Iterator[Example]:
        for row_split, article, summary in _read_csv(path, has_all):
            if row_split not in ("", split):
                continue
            if article and summary:
                yield Example(article, (summary,))
            else:
                missing = "a summary" if article else "an article"
                left_out[f"rows without {missing}"] += 1

    return gather(rows(), left_out, str(path))


def linearise(text: str) -> str:
    """The context of an article: itself."""
    return text.strip()


def split_of(article: str) -> str:
    """The split of an article in a file that does not say it.

    Example:
        >>> split_of("The mayor  opened the bridge.")
        'train'
    """
    words = " ".join(article.split())
    number = int(hashlib.sha256(words.encode()).hexdigest(), 16) % 100
    return "train" if number < 90 else "validation" if number < 95 else "test"


def _read_csv(path: Path, has_all: bool) -> Iterator[tuple[str, str, str]]:
    """Yields split (empty where the file is of one split), article and summary."""
    rows = csv.reader(io.StringIO(open_text(path), newline=""), strict=True)
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        article = next((header.index(n) for n in _ARTICLE if n in header), None)
        if article is None or "summary" not in header:
            raise InputError(
                f"'{path}' must start with a header that has `article` (or "
                f"`article_content`) and `summary`. Received: {','.join(header)!r}."
            )
        summary = header.index("summary")
        for row in rows:
            where = f"'{path}', line {rows.line_num}"
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
                        f"{where}: `split` must be one of {known}. Received: '{split}'."
                    )
            elif has_all and row[article].strip():  # without: counted in each split
                split = split_of(row[article])
            yield split, linearise(row[article]), row[summary].strip()
    except csv.Error as error:
        message = f"'{path}', line {rows.line_num}: not a csv row: {error}."
        raise InputError(message) from error
    finally:
        csv.field_size_limit(limit)


CURATION = Task("curation", read_curation, linearise, cut_context=True)
