import json
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
