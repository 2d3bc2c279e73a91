"""The E2E NLG challenge: restaurant attributes to a sentence.

Reads the official csv files (`mr,ref`), linearised as the LoRA recipe does, or that
recipe's own text files, a `context||reference` a line. Both give equal contexts;
the references of the text files have blanks around punctuation.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from spdf_keras.data.corpus.forms import TEXTS, ending, open_text
from spdf_keras.data.corpus.lines import split_lines
from spdf_keras.data.public.public_file import Collection, on_github
from spdf_keras.data.tasks.files import find_file, name_of_split, read_table
from spdf_keras.data.tasks.score_table import Score, ScoreTable, printed_rows
from spdf_keras.data.tasks.task import Example, Examples, Task, gather
from spdf_keras.errors import InputError

FILES = {
    "train": "trainset.csv",
    "validation": "devset.csv",
    "test": "testset_w_refs.csv",
}

# The files of the LoRA recipe for the same splits.
TEXT_FILES = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}

_COLUMNS = ["mr", "ref"]
_FIELD = re.compile(r"([^,\[\]]+)\[([^\]]*)\]")
_RENAMED = {
    "eatType": "Type",
    "priceRange": "price",
    "familyFriendly": "family friendly",
}


def linearise(mr: str) -> str:
    """Turns a meaning representation into the context that a model reads.

    Fields keep their order, as `name : value` joined by ` | `.

    Raises:
        InputError: If `mr` is not a list of `field[value]`.

    Example:
        >>> linearise("name[Blue Spice], eatType[coffee shop]")
        'name : Blue Spice | Type : coffee shop'
    """
    fields = _FIELD.findall(mr)
    rebuilt = ", ".join(f"{name}[{value}]" for name, value in fields)
    if not fields or re.sub(r"\s+", "", rebuilt) != re.sub(r"\s+", "", mr):
        raise InputError(
            "A meaning representation must look like `name[Aromi], area[riverside]`. "
            f"Received: '{mr}'."
        )
    parts = []
    for name, value in fields:
        name = name.strip()
        value = value.replace("£", "£ ").replace("-", " - ")
        parts.append(f"{_RENAMED.get(name, name)} : {value}")
    return " | ".join(parts)


def read_e2e(path: str | Path) -> Examples:
    """Reads one file: an example per distinct meaning representation.

    Examples keep the order in which their meaning representations first appear;
    all references of one are together, in file order.

    Args:
        path: A file of text lines if its name ends in `.txt`, otherwise a csv with
            the header `mr,ref`; compressed or not.

    Raises:
        InputError: If the file cannot be read or a row is malformed; the
            message names the line.
    """
    is_text = ending(path) in TEXTS
    return gather((_read_text if is_text else _read_csv)(path), Counter(), str(path))


def _read_csv(path: str | Path) -> Iterator[Example]:
    table = read_table(path, _COLUMNS.__eq__)
    if [name.lower() for name in table.header] != _COLUMNS:
        message = f"'{path}' must start with the header `mr,ref`."
        raise InputError(f"{message} Received: {','.join(table.header)!r}.")
    has_rows = False
    for line, row in table.rows:
        has_rows = True
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise InputError(
                f"'{path}', line {line}: a row must have a meaning "
                f"representation and a reference. Received: {row}."
            )
        try:
            context = linearise(row[0])
        except InputError as error:
            raise InputError(f"'{path}', line {line}: {error}") from error
        yield Example(context, (row[1].strip(),))
    if not has_rows:
        raise InputError(f"'{path}' has no rows below its header.")


def _read_text(path: str | Path) -> Iterator[Example]:
    for number, line in enumerate(split_lines(open_text(path)), 1):
        if not line.strip():
            continue
        context, separator, text = line.partition("||")
        if not separator or "||" in text or not context.strip() or not text.strip():
            raise InputError(
                f"'{path}', line {number}: a line must be `context||reference`. "
                f"Received: '{line.strip()[:60]}'."
            )
        yield Example(context.strip(), (text.strip(),))


def find_split(folder: str | Path, split: str) -> Path:
    """Finds a split's file in `folder` or in its `e2e` folder.

    The official csv files are taken where there are any, otherwise the text files: all
    splits come from the same kind, as their references are spaced differently.

    Args:
        folder: Where the files are, compressed or not.
        split: `train`, `validation` or `test`.

    Raises:
        InputError: If the file is not there.
    """
    name, text_name = name_of_split(FILES, split), TEXT_FILES[split]
    has_csv = find_file(folder, ["e2e"], FILES.values())
    path = find_file(folder, ["e2e"], [name if has_csv else text_name])
    if path is None:
        or_text = "" if has_csv else f", or {text_name} or {text_name}.gz"
        raise InputError(
            f"No E2E {split} data in '{folder}': expected {name} or {name}.gz{or_text}."
        )
    return path


def read_split(folder: str | Path, split: str) -> Examples:
    """Reads the file that `find_split` finds."""
    return read_e2e(find_split(folder, split))


_TABLE = ScoreTable(
    "Table 4",
    "E2E",
    # The official program gives fractions, which the paper multiplies.
    (
        Score("bleu", "BLEU", factor=100),
        Score("nist", "NIST"),
        Score("meteor", "METEOR", factor=100),
        Score("rouge_l", "ROUGE-L", factor=100),
        Score("cider", "CIDEr"),
    ),
    printed_rows(
        ("bleu", "nist", "meteor", "rouge_l", "cider"),
        """
        gpt2_small 0    67.49±0.60 8.59±0.03 46.08±0.22 70.22±0.42 2.38±0.03
        gpt2_small 0.5  67.39±0.38 8.62±0.03 45.89±0.18 70.10±0.26 2.38±0.01
        gpt2_small 0.75 66.50±0.01 8.46±0.13 45.61±0.32 70.02±0.26 2.36±0.02
        gpt3_xl    0    68.10±0.46 8.64±0.06 46.40±0.01 71.03±0.22 2.41±0.02
        gpt3_xl    0.5  67.98±0.63 8.62±0.07 46.40±0.07 71.30±0.20 2.43±0.02
        gpt3_xl    0.75 67.66±0.59 8.59±0.09 46.07±0.26 70.40±0.26 2.42±0.03
        """,
    ),
)

_PUBLIC = Collection(
    "the E2E NLG challenge",
    "CC BY-SA 4.0",
    "https://github.com/tuetschek/e2e-dataset",
    on_github(
        "tuetschek/e2e-dataset",
        "master",
        "e2e",
        (FILES["train"], 9340189, "fa3a5e1124d2aa0d768881e38f8ee73e63d5880d"),
        (FILES["validation"], 1161305, "c45950a0771c769d787a33fdf56439cb890005d7"),
        (FILES["test"], 1310822, "86733864c96dc18cbaa5f18042356296ef679302"),
    ),
)

E2E = Task(
    "e2e",
    read_split,
    linearise,
    _TABLE,
    _PUBLIC,
    protocol="e2e-metrics",
    file_protocol="e2e-metrics",
)
