from pathlib import Path

import pytest

from spdf_keras.errors import InputError
from spdf_keras.export.files import staged


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left_by_a_kill(folder: Path, prefix: str) -> Path:
    """A stage of a process that could not remove it."""
    stage = folder / f"{prefix}.spdf_keras-ab12_cd9.unfinished"
    stage.mkdir(parents=True)
    (stage / "m.tflite").write_text("half")
    return stage


def test_a_file_removes_the_stages_that_kills_left_of_it_alone(tmp_path: Path) -> None:
    left_by_a_kill(tmp_path, ".m.tflite")
    other = left_by_a_kill(tmp_path, ".a.m.tflite")
    folders_own = left_by_a_kill(tmp_path, "")
    with staged(tmp_path / "m.tflite", overwrite=False) as stage:
        stage.write_text("whole")
    assert (tmp_path / "m.tflite").read_text() == "whole"
    assert names(tmp_path) == sorted([other.name, folders_own.name, "m.tflite"])


def test_a_folder_removes_its_stages_and_leaves_those_of_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    left_by_a_kill(out, "")
    files_own = left_by_a_kill(out, ".m.tflite")  # its process may be alive
    with staged(out, overwrite=False, folder_with="artefact.json") as stage:
        stage.mkdir()
        (stage / "artefact.json").write_text("{}")
    assert names(out) == sorted([files_own.name, "artefact.json"])


def test_a_block_that_fails_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.tflite"
    path.write_text("earlier")
    with (
        pytest.raises(ValueError, match="broken"),
        staged(path, overwrite=True) as stage,
    ):
        stage.write_text("half")
        raise ValueError("broken")
    assert names(tmp_path) == ["m.tflite"] and path.read_text() == "earlier"
    with pytest.raises(InputError, match="must be new"), staged(path, overwrite=False):
        pass
