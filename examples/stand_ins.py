"""Makes stand-ins for data that is not at hand: DART's train split, Curation's corpus.

    python examples/stand_ins.py --data data --out data_evidence

- DART: its dev split is divided. A tenth of the triple sets, by a digest of their
  text, is the validation split, the others are the train split. The test split is the
  official one.
- Curation: each article of WikiText-2 in Curation's layout. Its first sentences, up to
  80 words, are the summary, and what follows them is the article.

The other sets are linked, so that the new folder is complete. It must not exist.
"""

import argparse
import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spdf_keras.console import say
from spdf_keras.data.corpus.forms import open_text
from spdf_keras.data.tasks.files import find_file, read_json
from spdf_keras.errors import InputError

_SUMMARY_WORDS = 80
_DART = "dart-v1.1.1-full-{}"


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        make(args.data, args.out)
    except InputError as error:
        sys.exit(f"stand_ins.py: error: {error}")


def make(data: Path, out: Path) -> None:
    """Writes the folder.

    Raises:
        InputError: If it exists, or a file is missing.
    """
    if out.exists():
        raise InputError(f"`out` must be new. Received: '{out}', which exists.")
    for folder, name in (
        ("dart", f"{_DART.format('dev')}.json"),
        ("dart", f"{_DART.format('test')}.xml"),
        *(("wikitext2", f"{split}.txt") for split in ("train", "valid", "test")),
    ):
        found(data, folder, name)
    out.mkdir(parents=True)
    for name in ("e2e", "webnlg", "wikitext2"):
        (out / name).symlink_to((data / name).resolve())
    write_dart(data, out / "dart")
    write_curation(data, out / "curation")


def write_dart(data: Path, out: Path) -> None:
    """Divides the dev split, and links the test split."""
    entries = read_json(found(data, "dart", _DART.format("dev") + ".json"))
    parts: dict[str, list[Any]] = {"train": [], "dev": []}
    for entry in entries:
        # Sets that differ in order or case alone are one input, or nearly.
        key = json.dumps(sorted(" ".join(t).lower() for t in entry["tripleset"]))
        is_held_out = hashlib.sha256(key.encode()).digest()[0] < 26
        parts["dev" if is_held_out else "train"].append(entry)
    out.mkdir()
    for name, part in parts.items():
        text = json.dumps(part, ensure_ascii=False, indent=1)
        (out / (_DART.format(name) + ".json")).write_text(text, "utf-8")
        say(f"DART, {name}: {len(part)} of {len(entries)} triple sets of the dev split")
    test = found(data, "dart", _DART.format("test") + ".xml")
    (out / test.name).symlink_to(test.resolve())


def write_curation(data: Path, out: Path) -> None:
    """Writes a csv file per split of WikiText-2."""
    out.mkdir()
    for name, split in (("train", "train"), ("valid", "validation"), ("test", "test")):
        rows = list(rows_of(found(data, "wikitext2", f"{name}.txt")))
        with (out / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("article", "summary"))
            writer.writerows(rows)
        say(f"Curation, {split}: {len(rows)} articles of WikiText-2")


def rows_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yields article and summary of each article of a WikiText file."""
    text = open_text(path)
    # A title has one `=` at each end; titles of sections have more.
    for body in re.split(r"^ = [^=\n]+ = \n", text, flags=re.MULTILINE)[1:]:
        lines = [line.strip() for line in body.split("\n")]
        words = " ".join(line for line in lines if not line.startswith("=")).split()
        end = summary_end(words)
        if end and words[end:]:
            yield " ".join(words[end:]), " ".join(words[:end])


def summary_end(words: list[str]) -> int:
    """Number of words in the sentences that fit a summary; 0 if the first does not."""
    return max(
        (i + 1 for i, w in enumerate(words[:_SUMMARY_WORDS]) if w == "."), default=0
    )


def found(data: Path, folder: str, name: str) -> Path:
    """The file, plain or .gz.

    Raises:
        InputError: If it is missing.
    """
    path = find_file(data, [folder], [name])
    if path is None:
        raise InputError(f"There is no '{name}' in '{data}', plain or .gz.")
    return path


if __name__ == "__main__":
    main()
