import gzip
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from spdf_keras.data.corpus import documents as module
from spdf_keras.data.corpus import pieces
from spdf_keras.data.corpus.documents import CorpusReader, read_documents
from spdf_keras.data.corpus.inputs import find_inputs
from spdf_keras.errors import InputError

from .conftest import COMPRESS

# Without the time: a test has the same name whenever it is collected.
gz = partial(gzip.compress, mtime=0)

DOCUMENT = st.text(min_size=1).filter(lambda text: not text.isspace())


def json_lines(documents: Sequence[str], end: str = "\n") -> bytes:
    lines = [json.dumps({"text": d, "meta": {"set": "x"}}) + end for d in documents]
    return "".join(lines).encode()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of 8 characters and JSON lines of 40 bytes count as long."""
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 8)
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 8)
    monkeypatch.setattr(module, "_LONG_LINE_BYTES", 40)


@pytest.mark.parametrize("suffix", COMPRESS)
@given(
    documents=st.lists(DOCUMENT),
    end=st.sampled_from(["\n", "\r\n", "\r\r\n", "\r", "\n\n"]),
)
def test_json_lines_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    documents: list[str],
    end: str,
) -> None:
    file = tmp_path_factory.mktemp("corpus") / f"a.jsonl{suffix}"
    file.write_bytes(COMPRESS[suffix](json_lines(documents, end)))
    assert list(read_documents([file])) == documents


@pytest.mark.parametrize("suffix", COMPRESS)
@given(
    documents=st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1),
            min_size=1,
        )
    ),
    end=st.sampled_from(["\n", "\r\n", "\r\r\n", "\r"]),
)
def test_plain_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    documents: list[list[str]],
    end: str,
) -> None:
    file = tmp_path_factory.mktemp("corpus") / f"a.txt{suffix}"
    text = (end + end).join(end.join(f" {line}\t" for line in d) for d in documents)
    file.write_bytes(COMPRESS[suffix](text.encode()))
    assert list(read_documents([file])) == ["\n".join(d) for d in documents]


def test_documents_are_blocks_between_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeff one\r\ntwo \r\n\r\n \t\nthree\rfour\n\n\n".encode())
    assert list(read_documents([file, file])) == ["one\ntwo", "three\nfour"] * 2
    tokens = file.rename(tmp_path / "wiki.train.tokens")  # any other name is text
    assert list(read_documents([tokens])) == ["one\ntwo", "three\nfour"]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_long_documents_come_in_pieces_and_none_is_lost(
    tmp_path: Path, name: str
) -> None:
    documents = ["one", "two words\n" * 7 + "end", "x", "some more words " * 9 + "y"]
    file = tmp_path / name
    plain = "\n\n".join(documents).encode()
    file.write_bytes(json_lines(documents) if "json" in name else plain)
    found = list(CorpusReader([file]).pieces())
    assert len(found) > 12 and sum(piece.last for piece in found) == 4
    assert list(read_documents([file])) == documents


def test_folders_and_patterns_stand_for_their_files(tmp_path: Path) -> None:
    names = ["b.txt", "a/x.jsonl.zst", "a/y.jsonl", "a/z/w.txt.gz", "a/z/v.ndjson"]
    for name in [*names, "a/notes.md", "out/c.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def find(*inputs: str) -> list[str]:
        found = find_inputs(
            [str(tmp_path / name) for name in inputs], leave_out=[tmp_path / "out"]
        )
        return [str(path.relative_to(tmp_path)) for path in found]

    inside = ["a/x.jsonl.zst", "a/y.jsonl", "a/z/v.ndjson", "a/z/w.txt.gz"]
    assert find(".") == [*inside, "b.txt"]
    assert find("b.txt", "a") == ["b.txt", *inside]
    assert find("a/*.jsonl*") == inside[:2] and find("**/*.txt") == ["b.txt"]
    assert find("a/notes.md") == ["a/notes.md"]  # given by name, it is text
    (tmp_path / "c.json").touch()
    for bad, sentence in (
        (["a", "a/y.jsonl"], "y.jsonl' is given twice"),
        (["c.json"], "a corpus is JSON lines"),
        (["no.txt"], "Cannot read .*no.txt'"),
        (["*.xyz"], "Cannot read .*xyz'"),
        (["out"], "Cannot read .*out'"),
    ):
        with pytest.raises(InputError, match=sentence):
            find(*bad)


WHOLE = json_lines([f"document {i} of them" for i in range(2000)])
ONE, TWO = json_lines(["one"]), json_lines(["two"])

# File, content, what it is refused with, what is skipped, and how many are left.
DAMAGE: list[tuple[str, bytes, str, dict[str, int], int]] = [
    (
        "a.jsonl",
        ONE + b'{"text": "x"\n' + TWO,
        "line 2: it is not JSON",
        {"no document": 1},
        2,
    ),
    ("a.jsonl", ONE + TWO[:-9], "line 2: it is not JSON", {"no document": 1}, 1),
    (
        "a.jsonl",
        ONE + b'{"txt": "x"}\r\n' * 2 + TWO,
        "line 2: it has no `text`",
        {"no document": 2},
        2,
    ),
    ("a.jsonl", b"\n\n[1]\n" + TWO, "line 3: it has no `text`", {"no document": 1}, 1),
    (
        "a.jsonl",
        b'{"text": null}\n' + TWO,
        "line 1: its `text` is not a string",
        {"no document": 1},
        1,
    ),
    (
        "a.jsonl",
        b'{"text": "\xff"}\n' + TWO,
        "line 1: it is not UTF-8: .* byte 10",
        {"no document": 1},
        1,
    ),
    (
        "a.jsonl",
        b'{"text": "\\ud800"}\n' + TWO,
        "line 1: .*half a surrogate pair",
        {"no document": 1},
        1,
    ),
    (
        "a.jsonl",
        b"[" * 99_999 + b"\n" + TWO,
        "line 1: .*nested too deeply",
        {"no document": 1},
        1,
    ),
    (
        "a.jsonl",
        b'{"text": "%b"}\n' % (b"x" * 5_000_000) + TWO,
        "line 1: .*without a space",
        {"no document": 1},
        1,
    ),
    (
        "a.txt",
        b"one\nca\xe9\r\n\r\ntwo",
        "line 2: it is not UTF-8: .* byte 2",
        {"not UTF-8": 1},
        2,
    ),
    (
        "a.txt",
        b"one\n\n%b\n\ntwo" % (b"x" * 5_000_000),
        "line 3: .*without a space",
        {"too long": 1},
        2,
    ),
    (
        "a.jsonl.gz",
        gz(WHOLE)[:-8],
        "line 2001: the file is cut short",
        {"broken file": 1},
        2000,
    ),
    (
        "a.jsonl.zst",
        zstd.compress(WHOLE)[:-8],
        r"line \d+: the file is cut short",
        {"broken file": 1},
        -1,
    ),
    (
        "a.txt.zst",
        zstd.compress(b"one\n\ntwo")[:-1],
        "line 3: the file is cut short",
        {"broken file": 1},
        -1,
    ),
    (
        "a.jsonl.zst",
        ONE,
        "line 1: the file has a broken zstd stream",
        {"broken file": 1},
        0,
    ),
    (
        "a.jsonl.gz",
        gz(ONE) + b"junk",
        "line 2: the file has a broken gzip",
        {"broken file": 1},
        1,
    ),
]


@pytest.mark.parametrize(("name", "content", "sentence", "skipped", "left"), DAMAGE)
def test_damage_is_refused_with_its_line_or_skipped_and_counted(
    tmp_path: Path,
    name: str,
    content: bytes,
    sentence: str,
    skipped: dict[str, int],
    left: int,
) -> None:
    file, last = tmp_path / name, tmp_path / "last.txt"
    file.write_bytes(content)
    last.write_text("the last")
    with pytest.raises(InputError, match=f"{name}', {sentence}") as caught:
        list(CorpusReader([file, last]).pieces())
    assert "With `--on-error skip`" in str(caught.value)
    reader = CorpusReader([file, last], "skip")
    documents = [piece.text for piece in reader.pieces()]
    assert documents[-1] == "the last" and left in (len(documents) - 1, -1)
    found = reader.mark()["skipped"]
    assert {kind: of["count"] for kind, of in found.items()} == skipped
    assert all(name in of["first"] for of in found.values())


def test_a_line_beyond_the_limit_is_refused_or_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spdf_keras.data.corpus.lines.MAX_LINE_BYTES", 2**20)
    file = tmp_path / "a.jsonl"
    file.write_bytes(ONE + json_lines(["long " * 900_000]) + TWO)
    with pytest.raises(InputError, match="line 2: it has more than"):
        list(CorpusReader([file]).pieces())
    reader = CorpusReader([file], "skip")
    assert [piece.text for piece in reader.pieces()] == ["one", "two"]
    assert reader.mark()["skipped"]["too long"]["count"] == 1


def test_empty_documents_are_left_out_and_counted(tmp_path: Path) -> None:
    file, empty = tmp_path / "a.jsonl", tmp_path / "empty.txt"
    file.write_bytes(json_lines(["", "one", " \n\t", "two"]))
    empty.touch()
    reader = CorpusReader([file, empty])
    assert [piece.text for piece in reader.pieces()] == ["one", "two"]
    assert reader.mark()["empty_documents"] == 2 and not reader.mark()["skipped"]


@pytest.mark.usefixtures("short")
def test_reading_goes_on_from_any_document(tmp_path: Path) -> None:
    bad = b"{}\n" + json_lines(["", "long words " * 5]) + b"[]\n"
    (tmp_path / "a.jsonl").write_bytes(ONE + bad + TWO + bad)
    cut = zstd.compress(b"x\n\nca\xe9\n\n" * 3 + b"y\n\r\nz\n" + b"end " * 99)[:-2]
    (tmp_path / "b.txt.zst").write_bytes(cut)
    (tmp_path / "c.txt").write_bytes(b"u\r\n\r\n\r\nv w " + b"words " * 9 + b"\n\nw")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"1\n\n2\xff\n\n3")[:-4])
    files = find_inputs([tmp_path])
    reader = CorpusReader(files, "skip")
    marks: list[tuple[int, dict[str, Any]]] = [(0, reader.mark())]
    whole = []
    for piece in reader.pieces():
        whole.append(piece)
        if piece.last:
            marks.append((len(whole), json.loads(json.dumps(reader.mark()))))
    marks.append((len(whole), reader.mark()))
    assert len(marks) > 9 and reader.mark()["skipped"]["broken file"]["count"] == 2
    for count, mark in marks:
        again = CorpusReader(files, "skip", mark)
        assert list(again.pieces()) == whole[count:]
        assert again.mark() == reader.mark()
        assert again.file_bytes == sum(file.stat().st_size for file in files)
