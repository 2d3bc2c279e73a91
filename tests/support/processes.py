"""Commands in processes of their own, and what their runs hold."""

import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What a machine's speed decides.
TIMES = {"seconds", "seconds_left", "tokens_per_second", "utilization"}


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Waits for a process, and returns its standard error stream."""
    error = process.communicate(timeout=300)[1]
    assert process.returncode == code, error
    assert "Traceback" not in error
    return error


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()[1]


def checkpoints(folder: Path) -> dict[str, bytes]:
    """Every file of every checkpoint, by its place."""
    place = folder / "checkpoints"
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return {str(file.relative_to(place)): file.read_bytes() for file in files}


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMES}
        for line in lines
    ]


def assert_same(resumed: Path, undisturbed: Path) -> None:
    assert checkpoints(resumed) == checkpoints(undisturbed)
    assert records(resumed) == records(undisturbed)
    results = [
        (folder / "result.json").read_text() for folder in (resumed, undisturbed)
    ]
    assert results[0] == results[1]


def num_lines(folder: Path) -> int:
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:  # not yet, or a run without checkpoint starts afresh
        return 0


def reaches(folder: Path, lines: int) -> bool:
    return num_lines(folder) >= lines


def start_workers(
    start: Callable[..., "subprocess.Popen[str]"], folder: Path, *arguments: str
) -> "list[subprocess.Popen[str]]":
    """Two workers on this machine."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
    return [
        start(folder, "--workers", addresses, "--worker", str(index), *arguments)
        for index in range(2)
    ]
