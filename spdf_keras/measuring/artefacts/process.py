"""An artefact in a process of its own, which has its runtime alone."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spdf_keras.errors import ExportError
from spdf_keras.export import runners
from spdf_keras.measuring.artefacts.artefact import Artefact


@dataclass(frozen=True)
class Continuation:
    """One round: the artefact was loaded and continued a prompt.

    The attributes are those of `spdf_keras.measuring.artefacts.measure.Row`.
    """

    load_s: float
    memory_bytes: float
    first_token_s: float
    token_s: float
    token_ids: list[int]


class ArtefactProcess:
    """Runs `export/runners/measure.py` on one artefact while the context is open.

    Args:
        artefact: The artefact.
        library: Path of the library that skips its zeros; empty for none.
    """

    def __init__(self, artefact: Artefact, library: str = "") -> None:
        self.artefact, self.library = artefact, library

    def __enter__(self) -> "ArtefactProcess":
        artefact = self.artefact
        script = Path(runners.__path__[0]) / "measure.py"
        self._process = subprocess.Popen(
            [
                *(sys.executable, str(script)),
                *(artefact.kind, str(artefact.path), self.library),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what the process has not read
                if pipe:
                    pipe.close()

    def wait(self) -> None:
        """Waits until the process has loaded its runtime.

        Raises:
            ExportError: If it cannot.
        """
        self._receive()

    def measure(self, prompt: list[int], new_tokens: int) -> Continuation:
        """Loads the artefact anew, and continues the prompt.

        Raises:
            ExportError: If the artefact does not run.
        """
        load = self._ask({"load": True, "prompt": prompt})
        result = self._ask({"prompt": prompt, "new_tokens": new_tokens})
        return Continuation(load_s=load["load_s"], **result)

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_receive` tells how it has ended
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            result = json.loads(self._process.stdout.readline())
        except ValueError:  # the line has not come, or not whole
            result = {"error": self._how_it_ended()}
        if "error" in result:
            library = f" with {Path(self.library).name}" if self.library else ""
            raise ExportError(
                f"'{self.artefact.path}'{library} cannot be measured: {result['error']}"
            )
        return dict(result)

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it has answered something else, and lives
            self._process.kill()
            status = self._process.wait()
        by = signal.Signals(-status).name if status < 0 else f"status {status}"
        return (
            f"its process has ended with {by}. The artefact may be damaged, or too "
            "large for this machine."
        )
