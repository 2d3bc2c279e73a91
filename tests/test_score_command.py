import bz2
import csv
import gzip
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.cli import main


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = {
        "hypotheses": "a pub near the river .\n\nthe eagle is a cheap pub .\n",
        "blocks": "a pub by the river .\none pub .\n\nfood\nmuch food\n\n"
        "The Eagle is a cheap bar .\n",
        "first": "a pub by the river .\nfood\nThe Eagle is a cheap bar .\n",
        "second": "one pub .\nmuch food\n\n",
        "parts": "seen\nunseen\nseen\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in texts}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, Any]:
    assert main(["score", *arguments, "--json"]) == 0
    printed = capsys.readouterr().out
    return printed, json.loads(printed.splitlines()[-1])


def test_e2e_is_scored_by_its_own_protocol(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--hypotheses", files["hypotheses"], "--references"]
    printed, found = run(capsys, *common, files["blocks"])
    assert found["task"] == "e2e" and found["protocol"] == "e2e-metrics"
    assert found["items"] == 3 and found["parts"] == {} and found["errors"] == {}
    assert list(found)[3:8] == ["bleu", "nist", "meteor", "rouge_l", "cider"]
    assert 0 < found["bleu"] < 1
    assert f"{found['bleu']:.4f}" in printed and "mteval-v13a" in printed
    assert "1 to 2 references per output" in printed
    assert run(capsys, *common, files["first"], files["second"])[1] == found


def test_parts_and_segments_are_scored_too(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    segments = tmp_path / "segments.tsv"
    printed, found = run(
        capsys,
        *("--task", "webnlg", "--hypotheses", files["hypotheses"]),
        *("--references", files["first"], files["second"]),
        *("--parts", files["parts"], "--segments", str(segments)),
    )
    assert found["protocol"] == "webnlg-2017" and found["bleu"] > 1
    assert {part: some["items"] for part, some in found["parts"].items()} == {
        "seen": 2,
        "unseen": 1,
    }
    assert found["parts"]["seen"]["ter"] == found["parts"]["seen"]["ter_tercom"]
    assert "unseen" in printed and "TER (pyter)" in printed
    # Without a word, the part has no BLEU; the whole case has.
    assert found["parts"]["unseen"]["bleu"] is None and found["errors"] == {}
    sentence = "unseen: BLEU has no value: no hypothesis has a word"
    assert sentence in printed and "none" in printed
    header, *rows = segments.read_text().splitlines()
    assert header.split("\t") == ["meteor", "ter", "ter_tercom", "ter_pyter"]
    assert [row.split("\t")[1] for row in rows] == [
        "0.2222222222222222",
        "0.6666666666666666",
        "0.14285714285714285",
    ]


def test_a_protocol_may_be_named(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["--hypotheses", files["hypotheses"], "--references", files["blocks"]]
    for protocol, own in (("dart", "ter_tercom"), ("generation-eval", "ter_pyter")):
        _, found = run(capsys, *texts, "--task", "dart", "--protocol", protocol)
        assert found["protocol"] == protocol and found["ter"] == found[own]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--task curation", "perplexity, which needs the model: spdf-keras evaluate"),
        ("--references {first} {parts}x", "Cannot read"),
        ("--references {hypotheses}", "3 outputs, 2 items"),
        ("--parts {blocks}", "3 outputs, 7 parts"),
        ("--hypotheses {hypotheses}x", "Cannot read"),
    ],
)
def test_bad_input_gets_one_sentence(
    files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    sentence: str,
) -> None:
    common = f"--hypotheses {files['hypotheses']} --references {files['first']} "
    assert main(["score", *(common + arguments.format(**files)).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("spdf-keras score: error: ") and sentence in error
    assert error.count("\n") == 1


def test_curation_is_refused_before_files_are_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = "score --task curation --hypotheses no --references no".split()
    assert main(arguments) == 2
    assert "perplexity" in capsys.readouterr().err


def table(rows: Sequence[Sequence[str]], **dialect: Any) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, **dialect).writerows(rows)
    return file.getvalue().encode()


HYPOTHESES = ["a pub, near the river .", "", "the eagle is a cheap pub ."]
REFERENCES = [["a pub by the river .", "one pub ."], ["food", "much food"]]
REFERENCES += [["The Eagle is a cheap bar ."]]
INPUTS = ["name[A], area[riverside]", "food[yes]", 'name["Eagle"]']


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("a.csv", {}),
        ("a.CSV", {"quoting": csv.QUOTE_ALL, "lineterminator": "\r\r\n"}),
        ("a.tsv", {"delimiter": "\t"}),
        ("a.tsv", {"delimiter": "\t", "quoting": csv.QUOTE_ALL}),
        ("a.csv", {"delimiter": ";", "quoting": csv.QUOTE_ALL}),
        ("a.csv", {"delimiter": ";", "lineterminator": "\n\n"}),
        ("a.csv.bz2", {"delimiter": "\t"}),
    ],
)
@pytest.mark.parametrize(
    ("columns", "others"),
    [(("MR", "output"), ("MR", "ref")), (("src", "System Output"), ("src", "targets"))],
)
def test_tables_are_scored_as_their_texts_are(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    dialect: dict[str, Any],
    columns: tuple[str, str],
    others: tuple[str, str],
) -> None:
    plain = [tmp_path / "hypotheses.txt", tmp_path / "references.txt"]
    plain[0].write_text("".join(f"{text}\n" for text in HYPOTHESES))
    blocks = ("".join(f"{text}\n" for text in texts) for texts in REFERENCES)
    plain[1].write_text("\n".join(blocks))
    for folder in ("h", "r"):
        (tmp_path / folder).mkdir()
    files = [tmp_path / "h" / name, tmp_path / "r" / name]
    rows: list[tuple[str, ...]] = [columns, *zip(INPUTS, HYPOTHESES, strict=True)]
    content = table(rows, **dialect)
    files[0].write_bytes(bz2.compress(content) if "bz2" in name else content)
    # Another column, and a mark of the order of bytes.
    rows = [(*others, "id")]
    for source, texts in zip(INPUTS, REFERENCES, strict=True):
        rows += [(source, text, "7") for text in texts]
    content = b"\xef\xbb\xbf" + table(rows, **dialect)
    files[1].write_bytes(bz2.compress(content) if "bz2" in name else content)
    for hypotheses in (plain[0], files[0]):
        for references in (plain[1], files[1]):
            sides = ["--hypotheses", str(hypotheses), "--references", str(references)]
            _, found = run(capsys, *sides)
            if references == hypotheses.with_name("references.txt"):
                expected = found
            assert found == expected and found["items"] == 3


def test_a_table_has_the_official_scores_of_its_texts(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = real_data / "scorer_cases" / "e2e_example10"
    official = json.loads((case / "scores.json").read_text())["scores"]
    texts = gzip.open(case / "hypotheses.txt.gz", "rt").read().splitlines()
    content = gzip.open(case / "references.txt.gz", "rt").read().strip()
    blocks = [block.split("\n") for block in content.split("\n\n")]
    rows = [("MR", "output"), *((f"name[{i}]", t) for i, t in enumerate(texts))]
    (tmp_path / "out.csv").write_bytes(table(rows))
    rows = [(f"name[{i}]", text) for i, block in enumerate(blocks) for text in block]
    (tmp_path / "ref.tsv").write_bytes(table([("MR", "ref"), *rows], delimiter="\t"))
    sides = ["--hypotheses", str(tmp_path / "out.csv")]
    _, found = run(capsys, *sides, "--references", str(tmp_path / "ref.tsv"))
    assert found["bleu"] == pytest.approx(official["mteval_v13a_perl"]["BLEU"], 1e-12)
    assert found["nist"] == pytest.approx(official["pymteval"]["NIST"], rel=1e-12)
    for ours, theirs in (("meteor", "METEOR"), ("rouge_l", "ROUGE_L")):
        value = official["coco_caption"][theirs]
        assert found[ours] == pytest.approx(value, rel=1e-12)


# What is no plain text: as outputs, as references, as parts.
OTHER_FORMS: list[tuple[str, str]] = [
    ("a.jsonl", '{"output": "a pub"}\n'),
    ("a.txt", '{"output": "a pub"}\n{"output": "b"}\n'),
    ("a.json", '["a pub"]'),
    ("a", '[\n{"output": "a pub"}\n]'),
    ("a.xml", "<a/>"),
    ("a.txt", "<?xml version='1.0'?>\n<a/>\n"),
    ("a.txt", "<refset setid='e2e'>\n"),
    ("a.html", "a pub\n"),
    ("a.txt", "MR,output\nname[A],a pub\n"),
    ("a", "mr\tref\nname[A]\ta pub\n"),
    ("a.txt", '"MR";"ref"\n"name[A]";"a pub"\n'),
    ("a.csv", "a pub\n"),
    ("a.tsv", "a pub, near\n"),
    ("a.csv", "MR,output\nname[A],a pub,near\n"),
    ("a.csv", "MR,mr,output\nname[A],b,a pub\n"),
    ("a.csv", 'MR,output\nname[A],"a pub\n'),
    ("a.csv", ""),
]


@pytest.mark.parametrize(("name", "content"), OTHER_FORMS)
def test_a_file_in_another_form_is_never_taken_for_lines(
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
) -> None:
    (tmp_path / name).write_text(content)
    path = str(tmp_path / name)
    good = {"--hypotheses": files["first"], "--references": files["first"]}
    good["--parts"] = files["parts"]
    for side in good:
        if side == "--parts" and "part" not in content and name[1:] in ("", ".txt"):
            continue  # a name of a part may be any text, as MR,output is
        arguments = [word for pair in {**good, side: path}.items() for word in pair]
        assert main(["score", *arguments]) == 2
        error = capsys.readouterr().err
        assert path in error and error.count("\n") == 1


def test_references_in_a_table_need_their_inputs_and_stand_alone(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.csv").write_text("id,ref\n1,food\n")
    (tmp_path / "s.csv").write_text("MR,ref\na,food\nb,food\na,food\nb,food\n")
    common = ["score", "--hypotheses", files["hypotheses"], "--references"]
    for arguments, sentence in (
        (["r.csv"], "must have a column `MR`"),
        (["s.csv"], "4 items in .*equal inputs in rows of one item"),
        (["s.csv", "first"], "must be given alone"),
    ):
        assert main([*common, *(str(tmp_path / name) for name in arguments)]) == 2
        assert re.search(sentence, capsys.readouterr().err)


def test_two_orders_of_the_same_inputs_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "h.csv").write_text("MR,output\nb,pub\na,food\n")
    (tmp_path / "r.csv").write_text("MR,ref\na,food\na,much food\nb,pub\n")
    sides = ["--hypotheses", str(tmp_path / "h.csv")]
    sides += ["--references", str(tmp_path / "r.csv")]
    assert main(["score", *sides]) == 2
    assert "in one order. Received: 'b' and 'a' at item 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "id,part\n1,seen\n2,unseen\n3,seen\n\n"),
        ("p.txt", "Part;id\nseen;1\nunseen;2\nseen;3\n"),
        ("p.tsv", "part\nseen\nunseen\nseen\n"),
        ("p.tsv", 'id\tpart\n"1\tseen\n2\tunseen\n3\tseen\n'),
    ],
)
def test_parts_may_be_a_column_of_any_table(
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
) -> None:
    (tmp_path / name).write_text(content)
    sides = ["--hypotheses", files["first"], "--references", files["first"]]
    _, found = run(capsys, *sides, "--parts", str(tmp_path / name))
    assert {part: some["items"] for part, some in found["parts"].items()} == {
        "seen": 2,
        "unseen": 1,
    }
