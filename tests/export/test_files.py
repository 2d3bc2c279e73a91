import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spdf_keras import GPT
from spdf_keras.errors import ExportError, InputError
from spdf_keras.export import files, publish, to_saved_model, to_tflite, to_xla
from spdf_keras.export.card import card_path
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


def without_links(*_: Any, **__: Any) -> None:
    """`os.link` of a file system that has no hard links."""
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["links", "no links"])
def _links(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no links":
        monkeypatch.setattr(os, "link", without_links)


@contextlib.contextmanager
def exported_file(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """An export of a file and its card."""
    with staged(path, overwrite, beside=card_path(path)) as stage:
        stage.write_text("new")
        stage.with_name(card_path(path).name).write_text("new card")
        yield stage


@contextlib.contextmanager
def exported_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """An export of a folder with a file, a folder in it, and a card."""
    with staged(path, overwrite, folder_with="saved_model.pb") as stage:
        (stage / "variables").mkdir(parents=True)
        for name in ("variables/data", "card.json", "saved_model.pb"):
            (stage / name).write_text("new")
        yield stage


@pytest.mark.usefixtures("_links")
def test_a_file_and_its_card_appear_together(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    for overwrite in (False, True):
        with exported_file(path, overwrite):
            pass
        assert names(tmp_path) == ["m.tflite", "m.tflite.card.json"]
        assert path.read_text() == "new"
        assert card_path(path).read_text() == "new card"
        path.write_text("earlier")
        card_path(path).write_text("earlier")


@pytest.mark.usefixtures("_links")
@pytest.mark.parametrize("taken", ["m.tflite", "m.tflite.card.json"])
def test_a_file_that_comes_while_an_export_runs_stays(
    tmp_path: Path, taken: str
) -> None:
    with (
        pytest.raises(InputError, match=f"must be new.*{taken}'.*not when the export"),
        exported_file(tmp_path / "m.tflite"),
    ):
        (tmp_path / taken).write_text("a user's")
    assert names(tmp_path) == [taken]
    assert (tmp_path / taken).read_text() == "a user's"


@pytest.mark.usefixtures("_links")
@pytest.mark.parametrize("taken", ["card.json", "saved_model.pb", "variables/mine"])
def test_what_comes_into_a_folder_while_an_export_runs_stays(
    tmp_path: Path, taken: str
) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(InputError, match="must be new.*not when the export"),
        exported_folder(out),
    ):
        (out / taken).parent.mkdir(exist_ok=True)
        (out / taken).write_text("a user's")
    assert names(out) == [taken.partition("/")[0]]
    assert (out / taken).read_text() == "a user's"


@pytest.mark.parametrize("export", [exported_file, exported_folder])
def test_of_two_exports_to_one_new_path_the_first_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: Any
) -> None:
    path = tmp_path / "out"
    with (
        export(path) as first,
        pytest.raises(InputError, match="is being written by another process"),
        export(path),
    ):
        pass
    assert not first.exists() and path.exists()
    # On a shared disk without locks, both run.
    free = tmp_path / "free"
    monkeypatch.setattr(files, "lock", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(files, "_tidy", lambda *_: None)
    with pytest.raises(InputError, match="must be new"), export(free) as second:
        with export(free):
            pass
        before = content(tmp_path)
        for file in (second, *second.rglob("*"), second.with_name("out.card.json")):
            if file.is_file():
                file.write_text("second")
    assert content(tmp_path) == before


def content(folder: Path) -> dict[str, str]:
    """The texts of all files, without stages."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(p): p.read_text() for p in paths if ".unfinished" not in str(p)}


def test_an_empty_file_of_the_beginning_is_replaced_while_it_is_empty(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.tflite"
    path.touch()
    with exported_file(path):
        pass
    assert path.read_text() == "new"
    for late in ("write", "touch"):
        path.write_text("")
        card_path(path).unlink(missing_ok=True)
        with (
            pytest.raises(InputError, match="must be new.*not when the export"),
            exported_file(path),
        ):
            if late == "write":
                path.write_text("a user's")
            else:  # a program has opened another file, which it will write to
                os.rename(path, tmp_path / "other")
                path.touch()
    assert names(tmp_path) == ["m.tflite", "other"]


def test_a_folder_that_cannot_be_filled_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with exported_folder(out):
        pass
    (out / "variables" / "data").write_text("earlier")
    before = content(tmp_path)
    move, calls = publish._move, []

    def fail_once(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        move(*paths)

    monkeypatch.setattr(publish, "_move", fail_once)
    with (
        pytest.raises(InputError, match="Cannot write to .*: Input/output error"),
        exported_folder(out, overwrite=True),
    ):
        pass
    assert content(tmp_path) == before


def test_a_card_beside_a_link_to_another_disk_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def within_a_folder(new: Path, place: Path) -> None:
        if place.parent == tmp_path:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(new, place)

    monkeypatch.setattr(os, "link", within_a_folder)
    (tmp_path / "m.tflite").symlink_to(tmp_path / "disk" / "real.tflite")
    with exported_file(tmp_path / "m.tflite"):
        pass
    assert names(tmp_path) == ["disk", "m.tflite", "m.tflite.card.json"]
    assert (tmp_path / "disk" / "real.tflite").read_text() == "new"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("", "`path` must name a file. Received: ''"),
        (".", "'.', which is a folder"),
        ("..", "'..', which is a folder"),
        ("/", "'/', which is a folder"),
        ("new/", "'new/', which ends as a folder does. Take 'new'"),
        ("/dev/full", "'/dev/full', which is none"),
        ("a\0b", "Received: 'a.*b'"),
        ("n" * 255, "File name too long"),
        ("n" * 250, "File name too long"),
        ("n" * 220, "File name too long"),
        ("file/new", "Not a directory"),
        ("/proc/none/new", "No such file or directory"),
    ],
)
def test_a_path_that_cannot_be_a_file_costs_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=sentence),
        staged(path, overwrite=True, beside=card_path(path)),
    ):
        pytest.fail("The work began.")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("path", ["", "/", "file", "file/new", "n" * 256, "/dev/full"])
def test_a_path_that_cannot_be_a_folder_costs_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError),
        staged(path, overwrite=True, folder_with="saved_model.pb"),
    ):
        pytest.fail("The work began.")
    assert names(tmp_path) == ["file"]


def test_the_working_folder_is_filled_where_it_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with staged(".", overwrite=False, folder_with="saved_model.pb") as stage:
        stage.mkdir()
        (stage / "saved_model.pb").write_text("new")
    assert names(tmp_path) == ["saved_model.pb"]
    with (
        pytest.raises(InputError, match="must be new. Received: '.'"),
        staged(".", overwrite=False, folder_with="saved_model.pb"),
    ):
        pytest.fail("The work began.")


@pytest.fixture
def _small_files() -> Iterator[None]:
    """The system takes no file above 100 kB, as a full disk would not."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.usefixtures("_small_files")
@pytest.mark.parametrize("exporter", [to_saved_model, to_tflite, to_xla])
def test_a_full_disk_ends_an_export_in_one_sentence_and_leaves_nothing(
    model: GPT, tmp_path: Path, exporter: Any
) -> None:
    reason = os.strerror(errno.EFBIG)
    with pytest.raises(ExportError, match=f"Cannot write .*out': {reason}. Nothing"):
        exporter(model, tmp_path / "new" / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_is_full_from_the_beginning_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    for call in ("pwrite", "fsync"):  # of the lock, which is the first file
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with (
                pytest.raises(ExportError, match=os.strerror(number)),
                staged(tmp_path / "new" / "m.tflite", overwrite=False),
            ):
                pytest.fail("The work began.")
        assert not list(tmp_path.iterdir())
