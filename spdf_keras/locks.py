"""A lock file: one process at a time writes to a place, also over a shared disk.

The system's own lock (`flock`) is released at once when its process dies, even by
SIGKILL. On some shared disks each machine has its own such locks. The file therefore
also names its process, which touches the file while it lives: another machine's lock
that has not been touched for a while is stale.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spdf_keras.errors import BusyError
from spdf_keras.files import temporary_path

try:
    import fcntl
except ImportError:  # Windows has no flock, so only the owner's process number counts
    fcntl = None  # type: ignore[assignment]

_TOUCH_SECONDS = 15.0
_STALE_SECONDS = 180.0
# Until a process looks again whether another one has left a place.
PAUSE_SECONDS = 2.0


@contextlib.contextmanager
def lock(path: Path, place: str) -> Iterator[None]:
    """Holds a lock file while the block runs.

    Args:
        path: The lock file; its folder must exist. It is removed at the end.
        place: Subject of the error sentence, such as `The folder 'runs/a'`.

    Raises:
        BusyError: If another process holds it; the message names that process.
    """
    descriptor = _acquire(path, place)
    ended = threading.Event()
    keeper = threading.Thread(
        target=_keep_fresh, args=(descriptor, ended), name="lock", daemon=True
    )
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        if _is_at(descriptor, path):
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(descriptor)


@contextlib.contextmanager
def when_free(
    hold: Callable[[], contextlib.AbstractContextManager[object]],
) -> Iterator[None]:
    """Holds a place while the block runs, once no other process does.

    For places that a process holds for moments.

    Args:
        hold: Makes what holds the place; entered while another process holds it, that
            raises `BusyError`.
    """
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold())
                break
            except BusyError:
                time.sleep(PAUSE_SECONDS)
        yield


def _acquire(path: Path, place: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # A previous owner may have removed the file that we opened.
            if not _flock(descriptor):
                raise _taken(path, place)
            if not _is_at(descriptor, path):
                os.close(descriptor)
                continue
            if _is_alive(path, descriptor):
                raise _taken(path, place)
            _write_owner(descriptor, path)
            return descriptor
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise


def _write_owner(descriptor: int, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_myself()).encode(), 0)
        os.fsync(descriptor)
    except OSError:  # the disk is full
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _flock(descriptor: int) -> bool:
    """Whether the system's lock was free; True if the disk has no such locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not supported here
        return True
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _is_alive(path: Path, descriptor: int) -> bool:
    """Whether the process that the file names lives although the lock was free."""
    owner = _owner(path)
    if not owner:
        return False
    mine = _myself()
    if owner.get("machine") == mine["machine"]:
        if fcntl is not None:
            return False  # on one machine the system's lock decides
        return owner.get("process") != mine["process"] and _runs(owner.get("process"))
    return _age(path, descriptor) < _STALE_SECONDS


def _age(path: Path, descriptor: int) -> float:
    """Returns the seconds since the owner touched the file, by the disk's clock."""
    touched = os.fstat(descriptor).st_mtime
    probe = temporary_path(path)
    probe.touch()
    try:
        return probe.stat().st_mtime - touched
    finally:
        probe.unlink()


def _runs(process: Any) -> bool:
    try:
        os.kill(int(process), 0)
    except (OSError, ValueError, TypeError):
        return False
    return True


def _keep_fresh(descriptor: int, ended: threading.Event) -> None:
    while not ended.wait(_TOUCH_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(descriptor)


def _owner(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _myself() -> dict[str, Any]:
    command = " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:2]])
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "command": command.replace("__main__.py", "spdf-keras"),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _machine() -> str:
    """Names the running system: equal in its containers, new after a restart."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return socket.gethostname()


def _taken(path: Path, place: str) -> BusyError:
    owner = _owner(path)
    # The owner writes its name right after it has taken the lock.
    deadline = time.monotonic() + 1.0
    while not owner and time.monotonic() < deadline:
        time.sleep(0.01)
        owner = _owner(path)
    who, advice = "another process", ""
    if owner:
        who += (
            f": `{owner.get('command')}`, process {owner.get('process')} on "
            f"{owner.get('host')}, since {owner.get('since')}"
        )
        if owner.get("machine") != _machine():
            advice = (
                f" If that machine has died, start again in {_STALE_SECONDS:.0f} "
                "seconds."
            )
    return BusyError(
        f"{place} is being written by {who}. Wait until it ends or stop it, or choose "
        f"another place.{advice}"
    )
