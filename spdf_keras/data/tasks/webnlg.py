"""The WebNLG challenge 2017: triples of DBpedia to text.

Reads the official xml, or JSON with the same content, to equal examples in equal
order. Only texts that are marked `good` are references; `Examples.left_out` counts the
others.
"""

import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from spdf_keras.data.corpus.forms import ending, open_text
from spdf_keras.data.corpus.listing import LeftOut, files_under
from spdf_keras.data.public.public_file import Collection, on_github
from spdf_keras.data.tasks import triples
from spdf_keras.data.tasks.files import (
    checked,
    field,
    find_file,
    name_of_split,
    read_json,
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

SPLITS = {"train": "train", "validation": "dev", "test": "test"}

# The categories of the training set. The test set has five more.
SEEN = frozenset(
    ("Airport", "Astronaut", "Building", "City", "ComicsCharacter")
    + ("Food", "Monument", "SportsTeam", "University", "WrittenWork")
)

_FOLDER = "webnlg_challenge_2017"
_INNER = ("webnlg", _FOLDER, f"webnlg/{_FOLDER}")
_ARCHIVE = f"{_FOLDER}_xml.tar.gz"
_ARCHIVE_ERRORS = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)
# The only file of the test folder that is read: others lack the texts or repeat some.
_TEST_FILE = "testdata_with_lex.xml"
_TRIPLE_KEYS = ("subject", "property", "object")


def read_webnlg(folder: str | Path, split: str) -> Examples:
    """Reads a split: an example per distinct set of triples.

    The data is looked for in this order, in `folder` and in `webnlg`,
    `webnlg_challenge_2017` and `webnlg/webnlg_challenge_2017` inside it:
    `train.json`, `dev.json` or `test.json` (compressed or not), the folder `train`,
    `dev` or `test` of xml files, `webnlg_challenge_2017_xml.tar.gz`. The enriched
    corpus is read from its folder of one language.

    Args:
        folder: Where the files are.
        split: `train`, `validation` or `test`.

    Raises:
        InputError: If there is no such file or one is malformed; the message
            names file and entry.
    """
    name = name_of_split(SPLITS, split)
    left_out: Counter[str] = Counter()
    path = find_file(folder, _INNER, [f"{name}.json"])
    if path:
        return _examples(read_json_entries(path), str(path), left_out)
    for base in (Path(folder), *(Path(folder) / inner for inner in _INNER)):
        if (base / name).is_dir():
            entries = _folder_entries(base / name, left_out)
            return _examples(entries, str(base / name), left_out)
    path = find_file(folder, _INNER, [_ARCHIVE.removesuffix(".gz")])
    if path:
        entries = _archive_entries(path, name, left_out)
        return _examples(entries, f"{path}/{name}", left_out)
    raise InputError(
        f"No WebNLG {split} data in '{folder}': expected {name}.json, the folder "
        f"{name} with xml files, or {_ARCHIVE}."
    )


def linearise(text: str) -> str:
    """The context of triples that a person types.

    Example:
        >>> linearise("Aarhus | leaderName | Jacob_Bundsgaard")
        'Aarhus : leaderName : Jacob_Bundsgaard'
    """
    return triples.linearise(parse_triples(text))


def read_json_entries(path: str | Path) -> Iterator[Entry]:
    """Yields the entries of `{"entries": [{"1": {...}}, ...]}`."""
    document = checked(read_json(path), dict, "the file", f"'{path}'")
    for number, item in enumerate(field(document, "entries", list, f"'{path}'"), 1):
        where = f"'{path}', entry {number}"
        item = checked(item, dict, "an entry", where)
        if len(item) != 1:
            raise InputError(f"{where}: it must be an object with one key, its number.")
        entry = checked(next(iter(item.values())), dict, "an entry", where)
        category = field(entry, "category", str, where)
        found = field(entry, "modifiedtripleset", list, where)
        texts = []
        for item in field(entry, "lexicalisations", list, where):
            text = checked(item, dict, "a lexicalisation", where)
            comment = field(text, "comment", str, where)
            texts.append((comment, field(text, "lex", str, where)))
        yield Entry(where, category, [_triple(t, where) for t in found], texts)


def _triple(triple: Any, where: str) -> Triple:
    checked(triple, dict, "a triple", where)
    subject, relation, value = (field(triple, key, str, where) for key in _TRIPLE_KEYS)
    return subject, relation, value


def _is_wanted(path: PurePosixPath) -> bool:
    name = path.name.lower()
    if ending(name) != ".xml":
        return False
    return not name.startswith("testdata") or name.startswith(_TEST_FILE)


def _folder_entries(folder: Path, left_out: Counter[str]) -> Iterator[Entry]:
    # The order of paths is that of the JSON files.
    others = LeftOut()
    for path in files_under(folder, others):
        if _is_wanted(PurePosixPath(path.name)):
            yield from read_xml(str(path), open_text(path))
    for reason, found in others.items():
        left_out[f"files or folders ({reason})"] += found["count"]


def _archive_entries(
    archive: Path, name: str, left_out: Counter[str]
) -> Iterator[Entry]:
    try:
        with tarfile.open(archive) as tar:
            members = [(PurePosixPath(m.name), m) for m in tar if m.isfile()]
            for path, member in sorted(members, key=lambda pair: pair[0]):
                if name not in path.parts[:-1] or not _is_wanted(path):
                    continue
                if any(part.startswith(".") for part in path.parts):
                    left_out["files or folders (hidden)"] += 1
                else:
                    file = tar.extractfile(member)
                    assert file is not None  # `isfile`, above
                    text = _decode(file.read(), f"{archive}/{path}")
                    yield from read_xml(f"{archive}/{path}", text)
    except _ARCHIVE_ERRORS as error:
        raise InputError(f"Cannot read '{archive}': {error}.") from error


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{name}' is not UTF-8 text at byte {error.start}."
        ) from error


def _examples(
    entries: Iterable[Entry], source: str, left_out: Counter[str]
) -> Examples:
    def rows() -> Iterator[Example]:
        for entry in entries:
            if not entry.category or not entry.triples:
                raise InputError(f"{entry.where}: it must have a category and triples.")
            good = [text for comment, text in entry.texts if comment == "good"]
            texts = tuple(text for text in good if text.strip())
            left_out["texts not marked good"] += len(entry.texts) - len(good)
            left_out["empty texts"] += len(good) - len(texts)
            context = triples.linearise(entry.triples)
            yield Example(context, texts, entry.category, entry.category in SEEN)

    return gather(rows(), left_out, source)


_TABLE = ScoreTable(
    "Table 5",
    "WebNLG",
    SCORES,
    # Its caption names NIST, ROUGE-L and CIDEr too, but it has no such columns.
    printed_rows(
        ("bleu", "meteor", "ter"),
        """
        gpt2_small 0    63.42±0.26 0.44 0.34
        gpt2_small 0.5  63.10±0.13 0.44 0.34
        gpt2_small 0.75 62.64±0.22 0.43 0.34
        gpt3_xl    0    63.62±0.23 0.45 0.32
        gpt3_xl    0.5  63.47±0.21 0.45 0.33
        gpt3_xl    0.75 63.06±0.11 0.45 0.33
        """,
    ),
)

_PUBLIC = Collection(
    "the WebNLG challenge 2017",
    "CC BY-NC-SA 4.0, not for commercial use",
    "https://github.com/microsoft/LoRA",
    on_github(
        "microsoft/LoRA",
        f"main/examples/NLG/data/{_FOLDER}",
        "webnlg",
        ("train.json", 20771939, "461766d1fe902bd659b821a03f49310c22403686"),
        ("dev.json", 2596106, "180f096ff49a7e597dd7c507ea0c5441e839b770"),
        ("test.json", 5610377, "7f552799b7e3b5badf95b725c20d955e0886811e"),
    ),
)

WEBNLG = Task(
    "webnlg",
    read_webnlg,
    linearise,
    _TABLE,
    _PUBLIC,
    protocol="generation-eval",
    file_protocol="webnlg-2017",
)
