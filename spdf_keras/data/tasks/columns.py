"""Tables of outputs and references: the header names the columns (e2e-metrics)."""

import re
from collections.abc import Sequence
from pathlib import Path

from spdf_keras.data.corpus.lines import split_lines
from spdf_keras.data.tasks.files import read_table
from spdf_keras.errors import InputError

TABLES = (".csv", ".tsv")
# Names of columns that e2e-metrics knows, without an `s` at their end.
_SOURCES = re.compile(
    "mr|src|source|meaning(?: rep(?:resentation)?)?|da|dial(?:ogue)? act"
)
OUTPUTS = re.compile(
    "out(?:put)?|ref(?:erence)?|sys(?:tem)?(?: (?:out(?:put)?|ref(?:erence)?))?"
)
REFERENCES = re.compile("trg|tgt|target|ref(?:erence)?|human(?: ref(?:erence)?)?")


def read_columns(path: str | Path, wanted: re.Pattern[str]) -> list[tuple[str, str]]:
    """The input and the text of each row of a table.

    Args:
        path: The file.
        wanted: `OUTPUTS`, whose inputs are empty where no column has them, or
            `REFERENCES`.

    Raises:
        InputError: If the file cannot be read, its header does not name one column
            of texts, or a row has not as many fields as the header.
    """
    example = "MR,ref" if wanted is REFERENCES else "MR,output"
    table = read_table(path, lambda header: bool(_column(header, wanted, path)))
    column = _column(table.header, wanted, path)
    if column is None:
        raise InputError(
            f"'{path}' must start with a header that names its columns, such as "
            f"`{example}`; name a file of plain lines .txt. Received: "
            f"{','.join(table.header)!r}."
        )
    source, text = column
    pairs = []
    for line, row in table.rows:
        if len(row) != len(table.header):
            raise InputError(
                f"'{path}', line {line}: a row must have {len(table.header)} fields as "
                f"the header has. Received: {len(row)}."
            )
        words = " ".join(split_lines(row[text]))  # a line break inside is a blank
        pairs.append((row[source].strip() if source is not None else "", words))
    if source is None and wanted is REFERENCES:
        raise InputError(
            f"'{path}' must have a column `MR`, which groups the references of one "
            f"item. Received: {','.join(table.header)!r}."
        )
    return pairs


def _column(
    header: Sequence[str], wanted: re.Pattern[str], path: str | Path
) -> tuple[int | None, int] | None:
    """The columns of inputs and of texts, or None if there is no text."""
    names = [re.sub(r"[\s_.-]+", " ", name.lower()).strip() for name in header]
    texts = [i for i, name in enumerate(names) if _is_called(name, wanted)]
    sources = [i for i, name in enumerate(names) if _is_called(name, _SOURCES)]
    if len(texts) > 1 or len(sources) > 1:
        raise InputError(
            f"'{path}' must have one column of inputs and one of texts. Received: "
            f"{','.join(header)!r}."
        )
    return (sources[0] if sources else None, texts[0]) if texts else None


def _is_called(name: str, wanted: re.Pattern[str]) -> bool:
    return bool(wanted.fullmatch(name) or wanted.fullmatch(name.removesuffix("s")))


def is_header(line: str) -> bool:
    """Whether a line names a column of inputs and one of texts."""
    for delimiter in ",;\t":
        names = [name.strip("\"' ").lower() for name in line.split(delimiter)]
        has_text = any(
            _is_called(n, OUTPUTS) or _is_called(n, REFERENCES) for n in names
        )
        if has_text and any(_is_called(name, _SOURCES) for name in names):
            return True
    return False
