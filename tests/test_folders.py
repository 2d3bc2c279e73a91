"""Who may write into a folder, and that nothing else in it is touched."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras import locks
from spdf_keras.errors import InputError
from spdf_keras.files import replace_file, replacing
from spdf_keras.folders import LOCK, MARK, claim, share
from spdf_keras.locks import lock

Content = dict[str, bytes | None]


def content(folder: Path) -> Content:
    """Every file and folder below, with the bytes of the files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_a_new_folder_is_made_marked_and_left_without_a_lock(tmp_path: Path) -> None:
    with claim(tmp_path / "a" / "b", "run") as folder:
        assert (folder / LOCK).is_file()
        (folder / "x").touch()
    assert {path.name for path in folder.iterdir()} == {MARK, "x"}
    with claim(folder, "run"):  # its own work, again
        pass
    with pytest.raises(InputError, match="choose another. It holds a run, and this"):
        with claim(folder, "study"):
            pass


def test_what_ends_without_a_file_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    before = content(tmp_path)
    for name in ("empty", "new/inner"):
        with pytest.raises(ValueError, match="no"), claim(tmp_path / name, "run"):
            raise ValueError("no")
        assert content(tmp_path) == before


@settings(max_examples=60, deadline=None)
@given(
    files=st.dictionaries(
        st.sampled_from(
            ["config.toml", "checkpoints/model_best.pt", "tokenizer/vocab.json"]
            + ["tensorboard/events.out.tfevents.1", "metrics.jsonl", "x.unfinished"]
            + ["a/b/c", ".hidden", "step-00000001/state.json", "index.json", "empty/"]
        ),
        st.binary(max_size=8),
        min_size=1,
    )
)
def test_a_persons_folder_is_refused_and_stays_byte_identical(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("mine")
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(data)
    before = content(folder)
    for place in (folder, folder / ".", folder / "a" / ".."):
        if place.exists():
            with pytest.raises(InputError, match="is in use: choose another. It holds"):
                with claim(place, "run"):
                    pytest.fail("it was given away")
    assert content(folder) == before


def test_what_is_empty_to_a_person_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, link = tmp_path / "disk", tmp_path / "link"
    (disk / "lost+found").mkdir(parents=True)
    link.symlink_to(disk)
    monkeypatch.chdir(disk)
    for place in (Path(), disk, link):
        with claim(place, "run"):
            (disk / "x").touch()
        (disk / "x").unlink()
        (disk / MARK).unlink()
    assert content(disk) == {"lost+found": None} and link.is_symlink()


def test_a_file_or_a_link_to_nowhere_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="`out` must name a folder. .* is a file"):
        with claim(tmp_path / "file", "run"):
            pass
    with pytest.raises(InputError, match="link to a place that does not exist"):
        with claim(tmp_path / "link", "run"):
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_in_the_way_is_refused_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with share(tmp_path, ["report.md"], lambda path: False) as folder:
        replace_file(folder / "report.md", "ours")
    with pytest.raises(InputError, match="report.md' is in the way: spdf-keras writes"):
        with share(tmp_path, ["report.md"], lambda path: False):
            pass
    assert content(tmp_path) == {"notes.txt": b"mine", "report.md": b"ours"}


def test_a_replaced_file_is_whole_or_as_it_was_and_no_other_is_touched(
    tmp_path: Path,
) -> None:
    target, link = tmp_path / "a.json", tmp_path / "link"
    (tmp_path / "a.json.unfinished").write_text("mine")
    replace_file(target, "one")
    link.symlink_to(target)
    replace_file(link, b"two")
    with pytest.raises(ValueError, match="no"), replacing(target) as file:
        file.write("thr")
        raise ValueError("no")
    assert target.read_text() == "two" and link.is_symlink()
    assert (tmp_path / "a.json.unfinished").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


HOLD = """
import sys, time
from pathlib import Path
from spdf_keras.folders import claim
with claim(sys.argv[1], "run"):
    Path(sys.argv[1], "x").touch()
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> "subprocess.Popen[str]":
    """A process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_folder_belongs_to_one_process_and_is_free_when_it_was_killed(
    tmp_path: Path,
) -> None:
    process = hold(tmp_path / "run")
    before = content(tmp_path)
    told = "'.*run' is being written by another process: `-c .*`, process "
    told += f"{process.pid} on"
    with pytest.raises(InputError, match=told), claim(tmp_path / "run", "run"):
        pass
    assert content(tmp_path) == before
    process.kill()
    process.communicate()
    assert (tmp_path / "run" / LOCK).exists()  # nobody was left to remove it
    with claim(tmp_path / "run", "run"):
        pass
    assert not (tmp_path / "run" / LOCK).exists()


def _race(folder: str, start: float, queue: Any) -> None:
    time.sleep(max(0.0, start - time.time()))
    try:
        with claim(folder, "run") as path:
            with (path / "log").open("a") as file:
                for step in range(50):
                    file.write(f"{os.getpid()} {step}\n")
                    file.flush()
                    time.sleep(0.002)
            queue.put("won")
    except InputError as error:
        queue.put(str(error))


def test_of_processes_that_start_at_once_one_wins_and_the_others_say_so(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    for attempt in range(3):
        folder, queue = tmp_path / f"run{attempt}", context.Queue()
        start = time.time() + 1.5
        processes = [
            context.Process(target=_race, args=(str(folder), start, queue))
            for _ in range(4)
        ]
        for process in processes:
            process.start()
        said = [queue.get(timeout=60) for _ in processes]
        for process in processes:
            process.join()
        won = said.count("won")
        assert won >= 1  # two may follow each other
        assert all("is being written by another" in s for s in said if s != "won")
        lines = (folder / "log").read_text().split()
        owners = list(dict.fromkeys(lines[::2]))
        assert len(lines) == 2 * 50 * won and len(owners) == won
        assert lines[::2] == [owner for owner in owners for _ in range(50)]


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Path]:
    """Leaves a lock of another machine that was touched some seconds ago."""

    def leave(age: float) -> Path:
        path = tmp_path / "lock"
        owner = {"machine": "other", "host": "node7", "process": 11, "command": "x"}
        path.write_text(json.dumps({**owner, "since": "2026-01-01T00:00:00+00:00"}))
        then = time.time() - age
        os.utime(path, (then, then))
        return path

    return leave


def test_a_lock_of_another_machine_is_kept_while_it_is_touched(
    foreign: Callable[[float], Path],
) -> None:
    path = foreign(locks._STALE_SECONDS - 60)
    told = "process 11 on node7, since 2026.* If that machine has died, start again in"
    with pytest.raises(InputError, match=told), lock(path, "The folder 'a'"):
        pass
    assert json.loads(path.read_text())["machine"] == "other"
    path = foreign(locks._STALE_SECONDS + 60)
    with lock(path, "The folder 'a'"):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert not path.exists()


def test_a_lock_is_touched_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_TOUCH_SECONDS", 0.01)
    with lock(tmp_path / "lock", "It"):
        os.utime(tmp_path / "lock", (0, 0))
        deadline = time.monotonic() + 30
        while (tmp_path / "lock").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
