"""The E2E NLG challenge: restaurant attributes to a sentence.

Reads the official csv files (`mr,ref`) and linearises as the LoRA recipe does.
"""

import csv
import io
import re
from pathlib import Path

from spdf_keras.data.corpus import open_text
from spdf_keras.data.tasks.examples import Example
from spdf_keras.errors import InputError

FILES = {
    "train": "trainset.csv",
    "validation": "devset.csv",
    "test": "testset_w_refs.csv",
}

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


def read_e2e(path: str | Path) -> list[Example]:
    """Reads one csv file: an example per distinct meaning representation.

    Examples keep the order in which their meaning representations first appear;
    all references of one are together, in file order.

    Args:
        path: A `.csv` or `.csv.gz` with the header `mr,ref`.

    Raises:
        InputError: If the file cannot be read or a row is malformed; the
            message names the line.
    """
    rows = csv.reader(io.StringIO(open_text(path), newline=""), strict=True)
    references: dict[str, list[str]] = {}
    try:
        header = next(rows, [])
        if [name.strip().lower() for name in header] != ["mr", "ref"]:
            message = f"'{path}' must start with the header `mr,ref`."
            raise InputError(f"{message} Received: {','.join(header)!r}.")
        for row in rows:
            if len(row) != 2 or not row[0].strip() or not row[1].strip():
                raise InputError(
                    f"'{path}', line {rows.line_num}: a row must have a meaning "
                    f"representation and a reference. Received: {row}."
                )
            try:
                context = linearise(row[0])
            except InputError as error:
                message = f"'{path}', line {rows.line_num}: {error}"
                raise InputError(message) from error
            references.setdefault(context, []).append(row[1].strip())
    except csv.Error as error:
        message = f"'{path}', line {rows.line_num}: not a csv row: {error}."
        raise InputError(message) from error
    if not references:
        raise InputError(f"'{path}' has no rows below its header.")
    return [Example(context, tuple(texts)) for context, texts in references.items()]


def find_split(folder: str | Path, split: str) -> Path:
    """Finds a split's official csv file in `folder` or in its `e2e` folder.

    Args:
        folder: Where the files are, plain or as `.gz`.
        split: `train`, `validation` or `test`.

    Raises:
        InputError: If the file is not there.
    """
    name = FILES[split]
    for base in (Path(folder), Path(folder) / "e2e"):
        for candidate in (base / name, base / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise InputError(
        f"No E2E {split} data in '{folder}': expected {name} or {name}.gz."
    )
