"""What a file is, by its name and by its content, and what a corpus makes of it."""

import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from backports import zstd

from spdf_keras.data.corpus.documents import CorpusReader, read_documents
from spdf_keras.data.corpus.forms import ending, form_of, open_text, why_not_text
from spdf_keras.data.corpus.inputs import find_inputs
from spdf_keras.errors import InputError

from .conftest import COMPRESS

# Without the time: a test has the same name whenever it is collected.
gz = partial(gzip.compress, mtime=0)

DOCUMENTS = ["one document", "another\n\nof three lines"]
LINES = "".join(json.dumps({"text": d, "id": 1}) + "\n" for d in DOCUMENTS).encode()


def zip_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), content)
    return file.getvalue()


def tar_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize(
    "name",
    [
        "a.jsonlines",
        "a.JSONL",
        "a.jl",
        "a.NDJSON",
        "a",
        "part-00000",
        "a.json",
        "a.dat",
    ],
)
def test_json_lines_are_known_by_any_ending(
    tmp_path: Path, name: str, suffix: str
) -> None:
    for ending_of in (suffix, suffix.upper(), ""):
        file = tmp_path / (name + ending_of)
        file.write_bytes(COMPRESS[suffix](LINES))
        assert list(read_documents(find_inputs([file]))) == DOCUMENTS
        assert list(read_documents(find_inputs([tmp_path]))) == DOCUMENTS
        file.unlink()


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.md", "a.tokens", "a", "a.py"])
def test_what_is_no_json_is_text_under_other_endings(tmp_path: Path, name: str) -> None:
    text = "{curly} text\n\n[1] a note\n\n{'a': 1}\n\n{\n}"
    (tmp_path / name).write_text(text)
    assert list(read_documents([tmp_path / name])) == text.split("\n\n")


@pytest.mark.parametrize("end", ["\r\r\n", "\r\n", "\r", "\n"])
def test_lines_of_a_text_stay_one_document(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.txt").write_bytes(f"one{end}two{end}{end}three{end}".encode())
    assert list(read_documents([tmp_path / "a.txt"])) == ["one\ntwo", "three"]


def test_a_text_keeps_what_does_not_end_a_line(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0cfour\x0bfive"
    (tmp_path / "a.txt").write_text(f"{text}\n\nsix\n", encoding="utf-8")
    assert list(read_documents([tmp_path / "a.txt"])) == [text, "six"]


ARRAY = json.dumps([{"text": d} for d in DOCUMENTS]).encode()
PRETTY = json.dumps([{"text": d} for d in DOCUMENTS], indent=2).encode()
OBJECT = json.dumps({"text": DOCUMENTS[0], "meta": {}}, indent=1).encode()

# Name, content, and what it is refused for.
REFUSED: list[tuple[str, bytes, str]] = [
    ("a.jsonl", ARRAY, "it is one JSON array"),
    ("a.jsonl", PRETTY, "it is one JSON array"),
    ("a.jsonl.gz", gz(PRETTY), "it is one JSON array"),
    ("a", ARRAY, "it is one JSON array"),
    ("a.txt", PRETTY, "it is one JSON array"),
    ("a.jsonl", OBJECT, "it is one JSON object"),
    ("a.txt", OBJECT, "it is one JSON object"),
    ("a.txt", LINES, "its name says text and its first line is JSON; name it .jsonl"),
    ("a.txt.xz", lzma.compress(LINES), "its name says text and its first line is JSON"),
    ("a.jsonl", b"text,label\nhello,1\n\n", "its name says JSON lines and none"),
    ("a.jl.gz", gz(b"<!DOCTYPE html>\n<html>"), "its name says JSON lines"),
    ("a.txt", "text".encode("utf-16"), "it is UTF-16 text; turn it into UTF-8"),
    ("a.jsonl", LINES.decode().encode("utf-16"), "it is UTF-16 text"),
    ("a.txt", "text".encode("utf-32"), "it is UTF-32 text"),
    ("a.txt", ("text " * 9).encode("utf-16-le"), "it is UTF-16 text without a byte"),
    ("a.txt", zip_of(LINES), "it is a zip archive"),
    ("a.tar", tar_of(LINES), "it is a tar archive; extract it"),
    ("a.tgz", gz(tar_of(LINES)), "it is a tar archive; extract it"),
    ("a.jsonl.gz", gz(gz(LINES)), "compressed twice, with gzip inside"),
    ("a.jsonl.gz", gz(zstd.compress(LINES)), "compressed twice, with zstd inside"),
    (
        "a.txt.lz4",
        b"\x04\x22\x4d\x18\x64\x40\xa7",
        "compressed in a way that is not known",
    ),
    ("a.txt", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "binary data"),
    ("a.txt", b"PAR1\x15\x04\x15", "it is a binary table"),
    ("a.txt", bytes(range(256)) * 9, "it is binary data"),
    (
        "a.txt",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        "it is a pointer of Git LFS",
    ),
]


@pytest.mark.parametrize(("name", "content", "sentence"), REFUSED)
def test_another_form_is_refused_or_left_out_as_a_file(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    file, last = tmp_path / name, tmp_path / "last.txt"
    file.write_bytes(content)
    last.write_text("the last")
    with pytest.raises(InputError, match=f"Cannot read '.*{name}': .*{sentence}"):
        CorpusReader([file, last])
    reader = CorpusReader([file, last], "skip")
    assert [piece.text for piece in reader.pieces()] == ["the last"]
    (found,) = reader.mark()["skipped"].values()
    assert found["count"] == 1 and found["unit"] == "files" and name in found["first"]
    again = CorpusReader([file, last], "skip", CorpusReader([file], "skip").mark())
    assert [piece.text for piece in again.pieces()] == ["the last"]


@pytest.mark.parametrize("name", ["a.csv", "a.TSV.gz", "a.xml", "a.html", "a.json"])
def test_a_name_that_says_another_form_is_refused(tmp_path: Path, name: str) -> None:
    compressed = gzip.compress(b"a,b\nc,d\n") if name.endswith("gz") else b"a,b\nc,d\n"
    (tmp_path / name).write_bytes(compressed)
    with pytest.raises(InputError, match=r"a corpus is JSON lines \(.jsonl\) or text"):
        find_inputs([tmp_path / name])
    with pytest.raises(InputError, match=r"a corpus is JSON lines \(.jsonl\) or text"):
        list(read_documents([tmp_path / name]))  # as `study.corpus` is read
    (tmp_path / "b.txt").write_text("text")
    found = find_inputs([tmp_path])
    assert [path.name for path in found] == ["b.txt"]
    assert found.left_out["other endings"]["count"] == 1


def test_a_broken_line_does_not_make_a_file_another_form(tmp_path: Path) -> None:
    for first in ('{"text": "x"', "[1]", '[{"text": "y"}]', "{}", '{"txt": 1}'):
        file = tmp_path / "a.jsonl"
        file.write_bytes(first.encode() + b"\n" + LINES)
        reader = CorpusReader([file], "skip")
        assert [piece.text for piece in reader.pieces() if piece.last][:1] == [
            DOCUMENTS[0]
        ]
        assert reader.mark()["skipped"]["no document"]["count"] == 1
    # A line that is not UTF-8 is one line, in a Latin-1 text too.
    text = tmp_path / "a.txt"
    text.write_bytes("déjà vu\n\nplain\n\nça va\n".encode("latin-1"))
    reader = CorpusReader([text], "skip")
    assert [piece.text for piece in reader.pieces()] == ["plain"]
    assert reader.mark()["skipped"]["not UTF-8"] == {
        "count": 2,
        "unit": "lines",
        "first": f"'{text}', line 1: it is not UTF-8: invalid continuation byte at "
        "byte 1",
    }


def test_a_long_first_line_is_no_other_form(tmp_path: Path) -> None:
    long = ["word " * 40_000, "short"]
    lines = "".join(json.dumps({"id": 1, "text": d}) + "\n" for d in long)
    for name in ("a", "a.json", "a.jsonl.gz"):
        compressed = gzip.compress(lines.encode()) if "gz" in name else lines.encode()
        (tmp_path / name).write_bytes(compressed)
        assert list(read_documents(find_inputs([tmp_path / name]))) == long


def test_hidden_files_and_folders_are_left_out_and_counted(tmp_path: Path) -> None:
    names = ["a.txt", "._a.txt", ".hidden.jsonl", "b/c.txt", "b/.git/x.txt"]
    names += [".ipynb_checkpoints/a-checkpoint.txt", "b/.DS_Store", ".git/config.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = find_inputs([tmp_path])
    assert [str(p.relative_to(tmp_path)) for p in found] == ["a.txt", "b/c.txt"]
    # A folder counts as one.
    assert found.left_out["hidden"]["count"] == 6
    assert found.left_out["hidden"]["first"] == str(tmp_path / "._a.txt")
    found = find_inputs([f"{tmp_path}/*.txt"])
    assert [path.name for path in found] == ["a.txt"]
    assert found.left_out["hidden"]["count"] == 1
    # A name asks for them.
    for name in ("._a.txt", ".hidden.jsonl", ".ipynb_checkpoints", "b/.git/x.txt"):
        (file,) = find_inputs([tmp_path / name])
        assert file.is_relative_to(tmp_path / name)
    assert [p.name for p in find_inputs([f"{tmp_path}/.*.jsonl"])] == [".hidden.jsonl"]


def test_links_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    corpus, other = tmp_path / "corpus", tmp_path / "disk"
    (corpus / "in").mkdir(parents=True)
    other.mkdir()
    (other / "far.txt").write_text("far")
    (corpus / "in" / "a.txt").write_text("a")
    (corpus / "again.txt").symlink_to(corpus / "in" / "a.txt")
    (corpus / "disk").symlink_to(other)
    (corpus / "round").symlink_to(corpus)
    (corpus / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    found = find_inputs([corpus])
    assert list(read_documents(found)) == ["far", "a"]
    assert {reason: some["count"] for reason, some in found.left_out.items()} == {
        "links that lead nowhere": 1,
        "links to what is read anyway": 2,
    }
    with pytest.raises(InputError, match="again.txt' is given twice"):
        find_inputs([corpus / "in" / "a.txt", corpus / "again.txt"])
    with pytest.raises(InputError, match="a.txt' is given twice"):
        find_inputs([corpus / "in" / "a.txt", f"{corpus}/in/../in/a.txt"])


def test_a_folder_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "locked").mkdir()
    whole = Path.iterdir

    def guarded(folder: Path) -> Iterator[Path]:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return whole(folder)

    monkeypatch.setattr(Path, "iterdir", guarded)
    with pytest.raises(InputError, match="Cannot read '.*locked': Permission denied"):
        find_inputs([tmp_path])


def test_what_cannot_be_read_twice_is_no_corpus(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        find_inputs([tmp_path / "pipe"])


def test_other_text_files_are_refused_in_words(tmp_path: Path) -> None:
    for name, content, sentence in REFUSED:
        if "JSON" not in sentence or "UTF-16" in sentence:
            (tmp_path / name).write_bytes(content)
            with pytest.raises(InputError, match=f"is not UTF-8 text: .*{sentence}"):
                open_text(tmp_path / name)


def test_forms_and_endings() -> None:
    assert ending("a.JSONL.GZ") == ".jsonl" and ending("b.txt.zstd") == ".txt"
    assert ending("a.gz") == "" and ending("a.tar.gz") == ending("a.tgz") == ".tar"
    assert form_of("\ufeff \n[\n{") == "text"  # no object yet
    assert form_of('\ufeff \n[\n{"a": 1}') == "json array"
    assert form_of('["a", "b"]') == "json array"
    assert form_of("[[Link]] of a wiki") == form_of('["Yes" he said') == "text"
    assert form_of('{"a": 1}\n{"a": 2}') == form_of("{}") == "json lines"
    assert form_of('{\n"a": 1}') == form_of('{"a":\n1}') == "json"
    assert form_of("<?xml version='1.0'?><a/>") == "markup"
    assert form_of("<unk> is a word") == form_of("") == "text"
    assert why_not_text(b"") is None and why_not_text("ünï".encode()) is None
    # A character that the end of the head has cut is no fault.
    assert why_not_text(("\x1f" + "ü" * 2**15).encode()[: 2**16]) is None


def test_a_vocabulary_in_a_folder_is_no_corpus(tmp_path: Path) -> None:
    words = {**{f"w{i}": i for i in range(9)}, "text": 9}
    for content in (words, {f"w{i}": i for i in range(20_000)} | words):
        (tmp_path / "encoder.json").write_text(json.dumps(content))
        (tmp_path / "a.jsonl").write_bytes(LINES)
        found = find_inputs([tmp_path])
        assert [path.name for path in found] == ["a.jsonl"]
        assert found.left_out["other endings"]["count"] == 1


def test_a_text_that_quotes_an_object_is_text(tmp_path: Path) -> None:
    text = '{"a": 1}\nis an object of JSON.'
    for name in ("a.txt", "a", "a.md"):
        (tmp_path / name).write_text(text)
        assert list(read_documents([tmp_path / name])) == [text]


def test_folders_that_a_pattern_matches_are_counted(tmp_path: Path) -> None:
    for name in ("a.txt", "b/c.txt", "d/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = find_inputs([f"{tmp_path}/*"])
    assert [path.name for path in found] == ["a.txt"]
    assert found.left_out["folders that a pattern matches"]["count"] == 2
    found = find_inputs([f"{tmp_path}/**"])
    assert len(found) == 3 and not found.left_out


def test_a_number_of_any_length_does_not_lose_a_document(tmp_path: Path) -> None:
    number = "9" * 5000
    (tmp_path / "a.jsonl").write_text(f'{{"id": {number}, "text": "one"}}\n')
    assert list(read_documents([tmp_path / "a.jsonl"])) == ["one"]
    long = "word " * 900_000
    (tmp_path / "a.jsonl").write_text(f'{{"id": -{number}, "text": "{long}"}}\n')
    assert list(read_documents([tmp_path / "a.jsonl"])) == [long]


def test_files_beside_the_output_are_no_input(tmp_path: Path) -> None:
    for name in ("a.txt", ".out.lock", "out.unfinished/x.txt", "out/y.txt", ".other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    outside = [tmp_path / "out", tmp_path / "out.unfinished"]
    found = find_inputs([tmp_path], leave_out=outside)
    assert [path.name for path in found] == ["a.txt"]
    assert found.left_out == {"hidden": {"count": 1, "first": str(tmp_path / ".other")}}


def test_a_json_file_is_refused_by_what_it_holds(tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    good.write_bytes(LINES)
    for content, sentence in (
        (ARRAY, "bad.json': it is one JSON array"),
        (OBJECT, "bad.json': it is one JSON object"),
        (b'{"a": 1}\n', "bad.json', line 1: it has no `text`"),
    ):
        (tmp_path / "bad.json").write_bytes(content)
        files = find_inputs([good, tmp_path / "bad.json"])
        with pytest.raises(InputError, match=sentence):
            list(read_documents(files))
        reader = CorpusReader(files, "skip")
        assert [p.text for p in reader.pieces()] == DOCUMENTS
        assert len(reader.mark()["skipped"]) == 1
    for content in (b"", b"text\n"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(InputError, match="its name says JSON"):
            find_inputs([tmp_path / "bad.json"])


def test_marks_of_files_that_were_put_together_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(2 * (b"\xef\xbb\xbf" + LINES))
    assert list(read_documents([tmp_path / "a.jsonl"])) == 2 * DOCUMENTS
    (tmp_path / "a.txt").write_bytes(2 * b"\xef\xbb\xbfone\n\n")
    assert list(read_documents([tmp_path / "a.txt"])) == ["one", "one"]
