"""Triples from small files of our own: xml and JSON alike, and what is refused."""

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.data.tasks.dart import linearise as linearise_dart
from spdf_keras.data.tasks.dart import read_dart, read_dart_file
from spdf_keras.data.tasks.task import Example, Examples
from spdf_keras.data.tasks.triples import read_xml
from spdf_keras.data.tasks.webnlg import linearise, read_webnlg
from spdf_keras.errors import InputError

ENTRIES: list[tuple[str, list[str], list[tuple[str, str]]]] = [
    ("Food", ["Bread | madeOf | Rye_&_salt"], [("good", "Rye & salt."), ("bad", "?")]),
    ("Artist", ["Ada | Was_Born | 1900", "Ada | knows | Bo"], [("good", "Ada, 1900.")]),
    ("Food", ["Soup | isA | Dish"], [("bad", "Soup")]),
    ("City", ["Bread | madeOf | Rye_&_salt"], [("good", "Bread is of rye.")]),
]
EXPECTED = [
    Example(
        "Bread : madeOf : Rye_&_salt", ("Rye & salt.", "Bread is of rye."), "Food", True
    ),
    Example(
        "Ada : Was_Born : 1900 | Ada : knows : Bo", ("Ada, 1900.",), "Artist", False
    ),
]
LEFT_OUT = {"texts not marked good": 2, "inputs without a text": 1}


def xml() -> str:
    parts = []
    for category, triples, texts in ENTRIES:
        inside = "".join(f"<mtriple>{t}</mtriple>" for t in triples)
        lexes = "".join(f'<lex comment="{c}">{t}</lex>' for c, t in texts)
        parts.append(
            f'<entry category="{category}"><modifiedtripleset>{inside}'
            f"</modifiedtripleset>{lexes}</entry>"
        )
    content = "".join(parts).replace("&", "&amp;")
    return f"<benchmark><entries>{content}</entries></benchmark>"


def webnlg_json() -> dict[str, Any]:
    keys = ("subject", "property", "object")
    entries = [
        {
            str(number): {
                "category": category,
                "modifiedtripleset": [
                    dict(zip(keys, t.split(" | "), strict=True)) for t in triples
                ],
                "lexicalisations": [{"comment": c, "lex": t} for c, t in texts],
            }
        }
        for number, (category, triples, texts) in enumerate(ENTRIES, 1)
    ]
    return {"entries": entries}


def dart_json() -> list[dict[str, Any]]:
    return [
        {
            "tripleset": [t.split(" | ") for t in triples],
            "annotations": [{"source": c, "text": t} for c, t in texts],
        }
        for _, triples, texts in ENTRIES
    ]


def write_json(folder: Path) -> None:
    with gzip.open(folder / "dev.json.gz", "wt") as file:
        json.dump(webnlg_json(), file)


def write_folder(folder: Path) -> None:
    (folder / "dev" / "1triples").mkdir(parents=True)
    (folder / "dev" / "1triples" / "Food.xml").write_text(xml())


def write_archive(folder: Path) -> None:
    (folder / "dev.xml").write_text(xml())
    with tarfile.open(folder / "webnlg_challenge_2017_xml.tar.gz", "w:gz") as tar:
        tar.add(folder / "dev.xml", "webnlg_challenge_2017/dev/1triples/Food.xml")
        tar.add(folder / "dev.xml", "webnlg_challenge_2017/train/1triples/Food.xml")


@pytest.mark.parametrize("write", [write_json, write_folder, write_archive])
@pytest.mark.parametrize("inner", [".", "webnlg", "webnlg_challenge_2017"])
def test_webnlg_is_the_same_from_json_folders_and_the_archive(
    tmp_path: Path, write: Callable[[Path], None], inner: str
) -> None:
    (tmp_path / inner).mkdir(exist_ok=True)
    write(tmp_path / inner)
    examples = read_webnlg(tmp_path, "validation")
    assert examples == EXPECTED and examples.left_out == LEFT_OUT


def test_of_the_test_folder_only_the_file_with_all_texts_is_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "test").mkdir()
    for name in ("testdata_no_lex", "testdata_unseen_with_lex"):
        (tmp_path / "test" / f"{name}.xml").write_text("not read")
    with pytest.raises(InputError, match="test' has no examples"):
        read_webnlg(tmp_path, "test")
    (tmp_path / "test" / "testdata_with_lex.xml").write_text(xml())
    assert read_webnlg(tmp_path, "test") == EXPECTED


@pytest.mark.parametrize("name", ["dart-v1.1.1-full-dev.xml", "dev.xml.gz", "d.json"])
def test_dart_lower_cases_relations_and_takes_every_text(
    tmp_path: Path, name: str
) -> None:
    content = json.dumps(dart_json()) if "json" in name else xml()
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if "gz" in name else data)
    examples = read_dart_file(tmp_path / name)
    assert examples[0].context == "Bread : madeof : Rye_&_salt"
    assert examples[0].references == ("Rye & salt.", "?", "Bread is of rye.")
    assert examples[1].context == "Ada : was_born : 1900 | Ada : knows : Bo"
    assert len(examples) == 3 and examples.left_out == {}
    assert examples[2].seen is None


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_is_left_out_and_counted(tmp_path: Path, text: str) -> None:
    entry = {"tripleset": [["a", "B", "c"]], "annotations": [{"text": text}]}
    more = {"tripleset": [["a", "B", ""]], "annotations": [{"text": "One. "}]}
    (tmp_path / "dart").mkdir()
    file = tmp_path / "dart" / "dart-v1.1.1-full-train.json"
    file.write_text(json.dumps([entry, more]))
    examples = read_dart(tmp_path, "train")
    assert examples == Examples([Example("a : b : ", ("One. ",))])
    assert examples.left_out == {"empty texts": 1, "inputs without a text": 1}
    file.write_text(json.dumps([entry]))
    with pytest.raises(InputError, match="has no examples; left out: 1 empty texts"):
        read_dart(tmp_path, "train")


def test_a_typed_input_gets_the_context_of_the_files() -> None:
    assert linearise("Ada | Was_Born | 1900 || Ada | knows | Bo") == EXPECTED[1].context
    assert linearise_dart("Ada | Was_Born | 1900") == "Ada : was_born : 1900"
    for text in ("", "Ada", "Ada | knows", "Ada | knows | Bo ||", "a | b | c | d"):
        with pytest.raises(InputError, match="must look like `subject"):
            linearise(text)


LAUGHS = (
    '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    "<benchmark><entry>&b;</entry></benchmark>"
)
TRIPLE = "<modifiedtripleset><mtriple>{}</mtriple></modifiedtripleset>"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "'x.xml' is not xml: no element found: line 1"),
        ("<benchmark>\n<entry>", "'x.xml' is not xml: no element found: line 2"),
        ("<benchmark>&none;</benchmark>", "is not xml: undefined entity"),
        (LAUGHS, "'x.xml': a DOCTYPE is not allowed"),
        ('<!DOCTYPE b SYSTEM "file:///x"><benchmark/>', "a DOCTYPE is not allowed"),
        ("<other/>", "must hold <benchmark>. Received: <other>"),
        ("<benchmark><entry/></benchmark>", "entry 1: it must have one <modified"),
        (
            f"<benchmark><entry>{TRIPLE.format('a | b')}</entry></benchmark>",
            "entry 1: a triple must be .* Received: 'a | b'",
        ),
        (
            f"<benchmark><entry>{2 * TRIPLE.format('a | b | c')}</entry></benchmark>",
            "entry 1: it must have one <modified",
        ),
    ],
)
def test_malformed_xml_is_refused_with_its_place(content: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence.replace("|", r"\|")):
        read_xml("x.xml", content)


def change(path: str, value: Any) -> str:
    """The JSON of WebNLG with one value replaced, or removed by `...`."""
    document = webnlg_json()
    place: Any = document
    *inside, last = [int(p) if p.isdigit() else p for p in path.split("/")]
    for key in inside:
        place = place[str(key) if isinstance(place, dict) else key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", r"dev.json' is not JSON: Expecting value at line 1, column 1\."),
        ('{"entries":\n [,]}', "is not JSON: Expecting value at line 2, column 3"),
        (200_000 * "[", "dev.json' is not usable: it is nested too deep"),
        ("[]", "dev.json': the file must be an object. Received: []"),
        ("{}", "dev.json': `entries` is missing"),
        ('{"entries": {}}', "`entries` must be a list. Received: {}"),
        ('{"entries": []}', r"dev.json' has no examples\."),
        ('{"entries": [{}]}', "entry 1: it must be an object with one key"),
        ('{"entries": [7]}', "entry 1: an entry must be an object. Received: 7"),
        (change("entries/1/2/category", ...), "entry 2: `category` is missing"),
        (change("entries/1/2/category", ""), "entry 2: it must have a category"),
        (change("entries/1/2/category", 5), "entry 2: `category` must be text"),
        (change("entries/0/1/modifiedtripleset", []), "entry 1: it must have a cat"),
        (change("entries/0/1/modifiedtripleset/0", "a"), "1: a triple must be an obj"),
        (change("entries/0/1/modifiedtripleset/0/object", ...), "`object` is missing"),
        (change("entries/3/4/lexicalisations", None), "4: `lexicalisations` must be a"),
        (change("entries/3/4/lexicalisations/0/lex", 1), "entry 4: `lex` must be text"),
        (change("entries/3/4/lexicalisations/0/lex", "\ud800"), "`lex` must be text"),
    ],
)
def test_malformed_json_of_webnlg_is_refused_with_its_entry(
    tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "dev.json").write_text(content)
    with pytest.raises(InputError, match=sentence.replace("[", r"\[")):
        read_webnlg(tmp_path, "validation")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not JSON: Expecting value at line 1"),
        ("{}", "the file must be a list"),
        ("[]", r"full-test.json' has no examples\."),
        ("[1]", "entry 1: an entry must be an object"),
        ('[{"tripleset": []}]', "entry 1: `tripleset` is empty"),
        ('[{"tripleset": [["a", "b"]]}]', "entry 1: a triple must have three parts"),
        (
            '[{"tripleset": [["a", 1, "b"]]}]',
            "entry 1: a part of a triple must be text",
        ),
        ('[{"tripleset": [["a", "r", "b"]]}]', "entry 1: `annotations` is missing"),
        (
            '[{"tripleset": [["a", "r", "b"]], "annotations": [{"text": null}]}]',
            "entry 1: `text` must be text. Received: None",
        ),
    ],
)
def test_malformed_json_of_dart_is_refused_with_its_entry(
    tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "dart-v1.1.1-full-test.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_dart(tmp_path, "test")


def test_a_broken_archive_is_refused_by_name(tmp_path: Path) -> None:
    archive = tmp_path / "webnlg_challenge_2017_xml.tar.gz"
    write_archive(tmp_path)
    whole = archive.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        archive.write_bytes(content)
        with pytest.raises(InputError, match="Cannot read .*xml.tar.gz"):
            read_webnlg(tmp_path, "train")
    archive.write_bytes(whole)
    with pytest.raises(InputError, match="xml.tar.gz/test' has no examples"):
        read_webnlg(tmp_path, "test")
