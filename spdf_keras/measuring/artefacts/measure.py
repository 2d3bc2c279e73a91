"""Measures exported artefacts side by side: size, load time, memory, speed, error."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from spdf_keras.errors import InputError
from spdf_keras.export.files import size_bytes
from spdf_keras.measuring.artefacts.process import (
    ArtefactProcess,
    Continuation,
    read_card,
)
from spdf_keras.measuring.turns import Spread, take_turns


@dataclass(frozen=True)
class Row:
    """The measurements of one artefact.

    Attributes:
        path: The artefact.
        format: Its format, from its card.
        size_bytes: Size of the file or folder.
        relative_error: Error on its card; None where it was not run.
        load_s: Seconds from nothing to two tokens, compilation included.
        memory_bytes: Peak memory above that of the runtime without a model.
        first_token_s: Seconds to the first new token of a prompt.
        token_s: Seconds of each further token.
        token_ids: The continuation.
    """

    path: str
    format: str
    size_bytes: int
    relative_error: float | None
    load_s: Spread
    memory_bytes: float
    first_token_s: Spread
    token_s: Spread
    token_ids: list[int]

    columns: ClassVar[tuple[str, ...]] = (
        *("artefact", "format", "size (MB)", "load (s)", "memory (MB)"),
        *("first token (ms)", "ms per token", "tokens/s", "error"),
    )

    @classmethod
    def of(
        cls, path: str | Path, kind: str, continuations: Sequence[Continuation]
    ) -> "Row":
        """Summarises the rounds of one artefact.

        Args:
            path: The artefact.
            kind: Its format where no card names one.
            continuations: One per round.
        """
        card = read_card(path)
        first = continuations[0]
        return cls(
            path=str(path),
            format=card.get("format", kind),
            size_bytes=size_bytes(Path(path)),
            relative_error=card.get("relative_error"),
            load_s=Spread.of([c.load_s for c in continuations]),
            # Only the first round counts: a process keeps memory that it has freed.
            memory_bytes=first.memory_bytes,
            first_token_s=Spread.of([c.first_token_s for c in continuations]),
            token_s=Spread.of([c.token_s for c in continuations]),
            token_ids=first.token_ids,
        )

    def cells(self) -> tuple[str, ...]:
        """The row of a table with the header `columns`."""
        error = self.relative_error
        return (
            Path(self.path).name,
            self.format,
            f"{self.size_bytes / 1e6:.1f}",
            self.load_s.show(),
            f"{self.memory_bytes / 1e6:.0f}",
            self.first_token_s.show(1e3),
            self.token_s.show(1e3),
            f"{1 / self.token_s.median:.1f}",
            "unknown" if error is None else f"{error:.1e}",
        )


def compare_artefacts(
    artefacts: Sequence[str | Path],
    rounds: int = 5,
    prompt_tokens: int = 16,
    new_tokens: int = 32,
    report: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Measures artefacts in turns, each in a process of its own.

    In each round every artefact is loaded and continues one prompt, while the others
    wait; other load of the machine then meets all of them alike.

    Args:
        artefacts: Files and folders that `to_tflite`, `to_xla` (with `prefill` and
            `decode`) and `to_saved_model` (with `generate`) wrote.
        rounds: Number of rounds.
        prompt_tokens: Tokens of the prompt, drawn at random.
        new_tokens: Tokens to add to it.
        report: Gets the number of rounds that are done, and of all.

    Returns:
        A row per artefact, in their order.

    Raises:
        InputError: If an argument is out of range, or a path is no such artefact.
        ExportError: If an artefact does not run.
    """
    for name, value in (("rounds", rounds), ("prompt_tokens", prompt_tokens)):
        if value < 1:
            raise InputError(f"`{name}` must be positive. Received: {name}={value}.")
    if new_tokens < 2:
        raise InputError(
            f"`new_tokens` must be at least 2. Received: new_tokens={new_tokens}."
        )
    kinds = [artefact_kind(path) for path in artefacts]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(ArtefactProcess(kind, Path(path)))
            for kind, path in zip(kinds, artefacts, strict=True)
        ]
        # They have started side by side; the first round begins when all are ready.
        for process in processes:
            process.wait()
        smallest = min((p.vocabulary_size for p in processes), default=2)
        random = np.random.default_rng(0)
        prompt = random.integers(smallest, size=prompt_tokens).tolist()
        # Numbers are the keys: one artefact may be named twice.
        calls = {
            number: partial(process.measure, prompt, new_tokens)
            for number, process in enumerate(processes)
        }
        results = take_turns(calls, rounds, warm_up=0, report=report)
    return [
        Row.of(path, kind, results[number])
        for number, (path, kind) in enumerate(zip(artefacts, kinds, strict=True))
    ]


def artefact_kind(path: str | Path) -> str:
    """Tells `tflite`, `xla` and `saved_model` apart.

    Raises:
        InputError: If the artefact is none that can be measured.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".tflite":
        return "tflite"
    if (path / "artefact.json").is_file():
        programs = json.loads((path / "artefact.json").read_text())["programs"]
        if {"prefill", "decode"} <= programs.keys():
            return "xla"
        raise InputError(
            f"An XLA artefact must have prefill and decode. Received: '{path}' with "
            f"{', '.join(programs)}. `run_xla.py --benchmark` times these."
        )
    if (path / "saved_model.pb").is_file():
        if read_card(path).get("format") != "saved_model_text":
            return "saved_model"
        raise InputError(
            f"A SavedModel must take token ids. Received: '{path}', which takes text."
        )
    raise InputError(
        "An artefact must be a .tflite file, or a folder with artefact.json or "
        f"saved_model.pb. Received: '{path}'."
    )
