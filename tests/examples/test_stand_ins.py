"""The program that makes stand-ins for data that is not at hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spdf_keras.data.tasks.registry import get_task

PROGRAM = Path(__file__).parents[2] / "examples" / "stand_ins.py"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in ("e2e", "webnlg", "dart", "wikitext2"):
        (folder / name).mkdir(parents=True)
    entries = [
        {
            "tripleset": [[f"City {n}", "COUNTRY", "Spain"]],
            "annotations": [{"source": "a", "text": f"City {n} is in Spain."}],
        }
        for n in range(60)
    ]
    name = "dart-v1.1.1-full-{}"
    (folder / "dart" / f"{name.format('dev')}.json").write_text(json.dumps(entries))
    (folder / "dart" / f"{name.format('test')}.xml").write_text("<benchmark/>")
    article = " = A {} = \n\n {} is a town . {} \n\n = = Parts = = \n\n It has {} .\n"
    for split in ("train", "valid", "test"):
        words = " ".join([split] * 90)
        text = article.format(split, split, words, "parts")
        (folder / "wikitext2" / f"{split}.txt").write_text(text)
    return folder


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_stand_ins_are_read_as_the_tasks_they_stand_for(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = run("--data", data, "--out", out)
    assert made.returncode == 0, made.stderr
    dart = {
        split: {e.context for e in get_task("dart").read(out, split)}
        for split in ("train", "validation")
    }
    assert len(dart["train"] | dart["validation"]) == 60
    assert not dart["train"] & dart["validation"] and len(dart["validation"]) < 20
    (example,) = get_task("curation").read(out, "test")
    assert example.references == ("test is a town .",)
    assert example.context.startswith("test test") and "Parts" not in example.context


def test_a_folder_that_exists_and_a_missing_file_are_refused(
    data: Path, tmp_path: Path
) -> None:
    assert "`out` must be new" in run("--data", data, "--out", data).stderr
    (data / "wikitext2" / "valid.txt").unlink()
    refused = run("--data", data, "--out", tmp_path / "out")
    assert "There is no 'valid.txt'" in refused.stderr and refused.returncode == 1
    assert not (tmp_path / "out").exists()
