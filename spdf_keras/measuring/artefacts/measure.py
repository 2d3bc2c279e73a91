"""Measures exported artefacts side by side: size, load time, memory, speed, error."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from spdf_keras.errors import ExportError, InputError
from spdf_keras.export.files import size_bytes
from spdf_keras.measuring.artefacts.artefact import Artefact
from spdf_keras.measuring.artefacts.process import ArtefactProcess, Continuation
from spdf_keras.measuring.turns import Spread, take_turns
from spdf_keras.native.build import NotBuiltError, library_path


@dataclass(frozen=True)
class Row:
    """The measurements of one artefact.

    Attributes:
        path: The artefact.
        format: Its format, from its card.
        library: File name of the library that skipped its zeros; empty where they
            were multiplied.
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
    library: str
    size_bytes: int
    relative_error: float | None
    load_s: Spread
    memory_bytes: float
    first_token_s: Spread
    token_s: Spread
    token_ids: list[int]

    columns: ClassVar[tuple[str, ...]] = (
        *("artefact", "format", "zeros", "size (MB)", "load (s)", "memory (MB)"),
        *("first token (ms)", "ms per token", "tokens/s", "error"),
    )

    @classmethod
    def of(
        cls, artefact: Artefact, library: str, continuations: Sequence[Continuation]
    ) -> "Row":
        """Summarises the rounds of one artefact; `continuations` has one per round."""
        first = continuations[0]
        return cls(
            path=str(artefact.path),
            format=artefact.card.get("format", artefact.kind),
            library=Path(library).name,
            size_bytes=size_bytes(artefact.path),
            relative_error=artefact.card.get("relative_error"),
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
            "skipped" if self.library else "multiplied",
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
    *,
    with_libraries: bool = True,
    report: Callable[[int, int], None] | None = None,
    on_failure: Callable[[str | Path, Exception], None] | None = None,
) -> list[Row]:
    """Measures artefacts in turns, each in a process of its own.

    In each round every artefact is loaded and continues one prompt, while the others
    wait; other load of the machine then meets all of them alike. An artefact whose card
    names a library of this package that skips its zeros is measured with it too.

    Args:
        artefacts: Files and folders that `to_tflite`, `to_xla` (with `prefill` and
            `decode`) and `to_saved_model` (with `generate`) wrote.
        rounds: Number of rounds.
        prompt_tokens: Tokens of the prompt, drawn at random.
        new_tokens: Tokens to add to it.
        with_libraries: Whether artefacts are measured with a library too.
        report: Gets the number of rounds that are done, and of all.
        on_failure: Gets each artefact that cannot be measured and its error, and the
            others go on without it. If None, the first error is raised.

    Returns:
        A row per artefact that was measured, in their order; a row with a library
        follows the one without.

    Raises:
        InputError: If an argument is out of range, or a path is no such artefact.
        ExportError: If an artefact does not run, or has no room for two new tokens.
        OSError: If an artefact cannot be read.
    """
    for name, value in (("rounds", rounds), ("prompt_tokens", prompt_tokens)):
        if value < 1:
            raise InputError(f"`{name}` must be positive. Received: {name}={value}.")
    if new_tokens < 2:
        raise InputError(
            f"`new_tokens` must be at least 2. Received: new_tokens={new_tokens}."
        )
    # Places are the keys: one artefact may be named twice.
    processes: dict[tuple[int, str], ArtefactProcess] = {}
    rows: list[Row] = []

    @contextmanager
    def guarded(key: tuple[int, str]) -> Iterator[None]:
        try:
            yield
        except (InputError, ExportError, OSError) as error:
            if on_failure is None:
                raise
            processes.pop(key, None)
            on_failure(artefacts[key[0]], error)

    with ExitStack() as stack:
        for number, path in enumerate(artefacts):
            with guarded((number, "")):
                artefact = Artefact.open(path)
                for library in ("", *_libraries(artefact, with_libraries)):
                    process = ArtefactProcess(artefact, library)
                    processes[number, library] = stack.enter_context(process)
        # They have started side by side; the first round begins when all are ready.
        for key, process in list(processes.items()):
            with guarded(key):
                process.wait()
        sizes = (process.artefact.vocabulary_size for process in processes.values())
        random = np.random.default_rng(0)
        prompt = random.integers(min(sizes, default=2), size=prompt_tokens).tolist()

        def measure(key: tuple[int, str]) -> Continuation | None:
            with guarded(key):
                if key in processes:
                    return processes[key].measure(prompt, new_tokens)
            return None

        calls = {key: partial(measure, key) for key in processes}
        results = take_turns(calls, rounds, warm_up=0, report=report) if calls else {}
        for key, process in list(processes.items()):
            with guarded(key):
                rounds_of_it = [result for result in results[key] if result]
                rows.append(Row.of(process.artefact, process.library, rounds_of_it))
    return rows


def _libraries(artefact: Artefact, wanted: bool) -> tuple[str, ...]:
    """Returns the path of the library for an artefact, if there is one."""
    if not wanted or not artefact.library_target:
        return ()
    try:
        return (str(library_path(artefact.library_target)),)
    except NotBuiltError as error:
        warnings.warn(f"{error} '{artefact.path}' runs without it.", stacklevel=3)
        return ()
