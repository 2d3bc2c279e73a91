"""DART v1.1.1: triples out of tables, WebNLG and E2E to text.

Reads the official JSON and xml, to equal examples in equal order. The relation is
lower-cased, everything else is used as it is written. Every annotation is one
reference; an empty one (the test set has one) teaches and measures nothing, so it is
left out and counted in `Examples.left_out`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spdf_keras.data.corpus.forms import ending, open_text
from spdf_keras.data.public.public_file import Collection, on_github
from spdf_keras.data.tasks import triples
from spdf_keras.data.tasks.files import (
    checked,
    field,
    find_file,
    name_of_split,
    parse_json,
)
from spdf_keras.data.tasks.score_table import ScoreTable, printed_rows
from spdf_keras.data.tasks.task import Example, Examples, Task, gather
from spdf_keras.data.tasks.triples import (
    SCORES,
    Entry,
    Triple,
    parse_triples,
    read_xml,
)
from spdf_keras.errors import InputError

SPLITS = {
    "train": "dart-v1.1.1-full-train",
    "validation": "dart-v1.1.1-full-dev",
    "test": "dart-v1.1.1-full-test",
}


def read_dart(folder: str | Path, split: str) -> Examples:
    """Reads a split: an example per distinct set of triples.

    Args:
        folder: Where the files are, or the folder `dart` with them:
            `dart-v1.1.1-full-train.json`, otherwise `.xml`, compressed or not, and
            the same with `dev` and `test`.
        split: `train`, `validation` or `test`.

    Raises:
        InputError: If there is no such file or it is malformed; the message
            names file and entry.
    """
    name = name_of_split(SPLITS, split)
    path = find_file(folder, ["dart"], [f"{name}.json", f"{name}.xml"])
    if not path:
        raise InputError(
            f"No DART {split} data in '{folder}': expected {name}.json or {name}.xml, "
            "plain or .gz."
        )
    return read_dart_file(path)


def read_dart_file(path: str | Path) -> Examples:
    """Reads one file; its text shows whether it is xml or JSON."""
    text = open_text(path)
    is_xml = text.lstrip().startswith("<") or ending(path) == ".xml"
    entries = read_xml(str(path), text) if is_xml else _json_entries(path, text)
    left_out: Counter[str] = Counter()

    def rows() -> Iterator[Example]:
        for entry in entries:
            texts = tuple(text for _, text in entry.texts if text.strip())
            left_out["empty texts"] += len(entry.texts) - len(texts)
            yield Example(_context(entry.triples), texts)

    return gather(rows(), left_out, str(path))


def linearise(text: str) -> str:
    """The context of triples that a person types.

    Example:
        >>> linearise("Mars Hill College | JOINED | 1973")
        'Mars Hill College : joined : 1973'
    """
    return _context(parse_triples(text))


def _context(parts: Sequence[Triple]) -> str:
    return triples.linearise([(s, relation.lower(), o) for s, relation, o in parts])


def _json_entries(path: str | Path, text: str) -> Iterator[Entry]:
    document = checked(parse_json(path, text), list, "the file", f"'{path}'")
    for number, item in enumerate(document, 1):
        where = f"'{path}', entry {number}"
        entry = checked(item, dict, "an entry", where)
        found = [
            _triple(triple, where) for triple in field(entry, "tripleset", list, where)
        ]
        if not found:
            raise InputError(f"{where}: `tripleset` is empty.")
        texts = []
        for item in field(entry, "annotations", list, where):
            annotation = checked(item, dict, "an annotation", where)
            texts.append(("", field(annotation, "text", str, where)))
        yield Entry(where, "", found, texts)


def _triple(triple: Any, where: str) -> Triple:
    values = checked(triple, list, "a triple", where)
    if len(values) != 3:
        raise InputError(
            f"{where}: a triple must have three parts. Received: {repr(triple)[:60]}."
        )
    subject, relation, value = (
        checked(part, str, "a part of a triple", where) for part in values
    )
    return subject, relation, value


_TABLE = ScoreTable(
    "Table 6",
    "DART",
    SCORES,
    printed_rows(
        ("bleu", "meteor", "ter"),
        """
        gpt2_small 0    46.30±0.16 0.38 0.51
        gpt2_small 0.5  45.74±0.10 0.37 0.51
        gpt2_small 0.75 44.97±0.11 0.37 0.52
        gpt3_xl    0    47.71±0.11 0.39 0.49
        gpt3_xl    0.5  47.10±0.13 0.39 0.49
        gpt3_xl    0.75 46.96±0.08 0.38 0.50
        """,
    ),
)

_HOME = "https://github.com/Yale-LILY/dart"
_TRAIN = f"{SPLITS['train']}.json"
_PUBLIC = Collection(
    "DART v1.1.1",
    "MIT",
    _HOME,
    on_github(
        "Yale-LILY/dart",
        "master/data/v1.1.1",
        "dart",
        (
            f"{SPLITS['validation']}.json",
            2468789,
            "d11b7982aeafc0761d9805502e4ad7487c557da0",
        ),
        (
            f"{SPLITS['test']}.xml",
            3958498,
            "73b526ff793c0c61d22c2b4e6d2f8a0009c39709",
        ),
    ),
    f"The training set of DART has no checksum here: get data/v1.1.1/{_TRAIN} from "
    f"{_HOME} and put it beside the other files, as dart/{_TRAIN}.",
)

DART = Task(
    "dart",
    read_dart,
    linearise,
    _TABLE,
    _PUBLIC,
    protocol="generation-eval",
    file_protocol="dart",
)
