import gzip
from pathlib import Path

import pytest

from spdf_keras.cli import main
from spdf_keras.data.tasks.parts import read_parts
from spdf_keras.data.tasks.references import (
    read_hypotheses,
    read_lines,
    read_prompts,
    read_references,
)
from spdf_keras.errors import InputError


def write(folder: Path, *contents: str) -> list[Path]:
    paths = [folder / f"file{i}" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content.encode())
    return paths


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a\nb", ["a", "b"]),
        ("a\nb\n", ["a", "b"]),
        ("a\n\n", ["a", ""]),
        ("a\r\n\r\nb\r\n", ["a", "", "b"]),
        ("a\u2028b\x0bc\x85d\x1ce\x0cf\n", ["a\u2028b\x0bc\x85d\x1ce\x0cf"]),
        ("a\r\r\n\r\r\nb\rc", ["a", "", "b", "c"]),
        ("\ufeffa\n", ["a"]),
    ],
)
def test_a_line_ends_as_it_does_in_a_corpus(
    tmp_path: Path, content: str, lines: list[str]
) -> None:
    (path,) = write(tmp_path, content)
    assert read_lines(path) == lines


def test_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "hypotheses.txt.gz"
    path.write_bytes(gzip.compress(b"a\n\nb\n"))
    assert read_hypotheses(path) == ["a", "", "b"]


@pytest.mark.parametrize(
    ("content", "items", "expected"),
    [
        ("a\nb\n\nc\n", 2, [["a", "b"], ["c"]]),
        ("a\nb\n\nc\n\n", 2, [["a", "b"], ["c"]]),  # a blank line after the last too
        ("a\n\n\n\nc\n", 2, [["a"], ["c"]]),
        ("a\nb\n", 2, [["a"], ["b"]]),  # no blank line: a reference per line
        ("a\nb\n\n", 2, [["a"], ["b"]]),  # as e2e-metrics has it
        ("a\nb\n", 1, [["a", "b"]]),  # which cannot be meant here
        ("a\nb\n", None, [["a"], ["b"]]),
        ("a\n", 1, [["a"]]),
    ],
)
def test_one_file_has_blocks(
    tmp_path: Path, content: str, items: int | None, expected: list[list[str]]
) -> None:
    assert read_references(write(tmp_path, content), items) == expected


def test_several_files_have_a_line_per_item(tmp_path: Path) -> None:
    files = write(tmp_path, "a\nb\nc\n", "d\n\n\n", "\n\nf")
    assert read_references(files, 3) == [["a", "d"], ["b"], ["c", "f"]]


@pytest.mark.parametrize(
    ("contents", "items", "sentence"),
    [
        (("a\nb\n\nc\n",), 3, "3 outputs, 2 items in .*, which must have a blank line"),
        (("a\nb\n",), 3, "3 outputs, 2 items"),
        (("a\n\n\nc\n",), 3, "Item 2 has no reference"),
        (("a\nb\n", "c\n"), 2, "empty where one is missing. Received: 2 lines .* 1 in"),
        (("a\n\n", "c\n\n"), 2, "Item 2 has no reference in .*file0' .*file1'; take"),
        (("a\nb\n", "c\nd\n"), 3, "3 outputs, 2 items in .* have a line per output"),
        (("",), 1, "There must be references. Received: nothing in"),
        (("\n\n",), None, "There must be references"),
        (("", ""), None, "There must be references"),
    ],
)
def test_references_that_do_not_fit_are_refused(
    tmp_path: Path, contents: tuple[str, ...], items: int | None, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        read_references(write(tmp_path, *contents), items)


def test_outputs_must_be_there_and_be_text(tmp_path: Path) -> None:
    (empty,) = write(tmp_path, "")
    with pytest.raises(InputError, match="must hold an output per line, and it is"):
        read_hypotheses(empty)
    empty.write_bytes(b"ab\xffc\n")
    with pytest.raises(InputError, match="is not UTF-8 text: .* at byte 2"):
        read_hypotheses(empty)
    with pytest.raises(InputError, match="Cannot read '.*/none'"):
        read_hypotheses(tmp_path / "none")


@pytest.mark.parametrize(
    "content",
    ["seen\nunseen\n", "part\nseen\nunseen\n", "id\tpart\n1\tseen\n2\tunseen\n"],
)
def test_parts_are_lines_or_a_column(tmp_path: Path, content: str) -> None:
    (path,) = write(tmp_path, content)
    assert read_parts(path, 2) == ["seen", "unseen"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("seen\n", "a part per output. Received: 2 outputs, 1 parts"),
        ("id\tkind\n1\tx\n2\ty\n", "must name a column `part`. Received: id, kind"),
        ("seen\n\n", "must name the part of item 2"),
        ("id\tpart\n1\tseen\n2\n", "must name the part of item 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, content: str, sentence: str
) -> None:
    (path,) = write(tmp_path, content)
    with pytest.raises(InputError, match=sentence):
        read_parts(path, 2)


@pytest.mark.parametrize("mark", "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\r"])
def test_a_prompt_is_a_line_whatever_is_in_it(
    tmp_path: Path, mark: str, end: str
) -> None:
    prompts = [f"name[A{mark}B], area[C]", f"{mark}two"]
    for after in ("", end, 3 * end):
        (path,) = write(tmp_path, "\ufeff" + end.join(prompts) + after)
        assert read_prompts(path) == prompts


def test_prompts_that_are_none_are_refused(tmp_path: Path) -> None:
    for content, sentence in (
        ("", "must hold a prompt per line, and it is empty"),
        ("\n \n", "must hold a prompt per line, and it is empty"),
        ("a\n\nb\n", "', line 2: every prompt must be a line of text"),
        ('{"prompt": "a"}\n', "must hold plain text.* Received: JSON lines"),
        ('mr,ref\n"name[A]",x\n', "Received: a table"),
    ):
        (path,) = write(tmp_path, content)
        with pytest.raises(InputError, match=sentence):
            read_prompts(path)
    path = tmp_path / "testset.csv"
    path.write_text('MR\n"name[A]"\n')
    with pytest.raises(InputError, match="Received: a csv by its name"):
        read_prompts(path)


def test_the_command_names_the_line_that_is_no_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = write(tmp_path, "a\u2028b\n\nc\n")
    assert main(["generate", str(tmp_path), "--input", str(path)]) == 2
    assert "file0', line 2: every prompt must be" in capsys.readouterr().err
    # Two prompts are two, and then it is the run that is not there.
    (path,) = write(tmp_path, "a\u2028b\nc\x85\n\n")
    assert main(["generate", str(tmp_path / "none"), "--input", str(path)]) == 2
    assert "No run in" in capsys.readouterr().err
