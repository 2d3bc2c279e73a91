"""An artefact in a process of its own, which has its runtime alone."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spdf_keras.errors import ExportError
from spdf_keras.export import runners
from spdf_keras.export.card import card_path


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
        kind: A kind of artefact that the program knows.
        path: The artefact.
    """

    def __init__(self, kind: str, path: Path) -> None:
        self._kind, self._path = kind, path

    def __enter__(self) -> "ArtefactProcess":
        script = Path(runners.__path__[0]) / "measure.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), self._kind, str(self._path)],
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
            if pipe:
                pipe.close()

    def wait(self) -> None:
        """Waits until the process has loaded its runtime."""
        self._receive()

    @property
    def vocabulary_size(self) -> int:
        """The model's vocabulary size on the artefact's card; 2 without a card."""
        return int(read_card(self._path).get("vocabulary_size", 2))

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
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        result = json.loads(line) if line else {"error": "its process has ended."}
        if "error" in result:
            raise ExportError(f"'{self._path}' cannot be measured: {result['error']}")
        return dict(result)


def read_card(artefact: str | Path) -> dict[str, Any]:
    """Reads an artefact's card; it is empty where there is none."""
    file = card_path(artefact)
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}
