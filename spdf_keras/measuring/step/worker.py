"""A process that takes training steps when it is told to."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class WorkerError(RuntimeError):
    """A worker cannot take steps; the message says why."""


class Worker:
    """A process that reads words, one a line, and answers with lines of JSON.

    It starts with `{"ready": VERSIONS}`, answers `step` with `{"seconds": S, "loss":
    L}` and `peak` with `{"peak": OPERATIONS_PER_SECOND}`, waits in between, and ends
    with its input. Whatever it cannot do, it answers with `{"error": SENTENCE}`.

    Args:
        command: The program and its arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._name = Path(command[1] if command[1:] else command[0]).name
        self._versions: dict[str, str] | None = None

    def versions(self) -> dict[str, str]:
        """Waits until the process is ready; returns the versions of its libraries.

        Raises:
            WorkerError: If it cannot start.
        """
        if self._versions is None:
            self._versions = dict(self._answer()["ready"])
        return self._versions

    def step(self) -> dict[str, float]:
        """Takes a step; returns its `seconds` and its `loss`.

        Raises:
            WorkerError: If the process cannot take it.
        """
        return self._ask("step")

    def peak(self) -> float:
        """Measures the operations per second of a matrix product in its precision."""
        return float(self._ask("peak")["peak"])

    def close(self) -> None:
        """Ends the process, and waits until its memory is free again."""
        assert self._process.stdin and self._process.stdout
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):  # a word that nobody has read
                file.close()

    def _ask(self, word: str) -> dict[str, Any]:
        self.versions()
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
        except OSError:  # it has ended; its answer says more
            pass
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith('{"'):  # libraries print, too
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer:
                    raise WorkerError(str(answer["error"]))
                return answer
        status = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        last = lines[-1] if lines else "it wrote no error"
        raise WorkerError(f"'{self._name}' has ended with status {status}: {last}")
