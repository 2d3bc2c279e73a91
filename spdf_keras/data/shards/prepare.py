"""From a corpus to a folder of shards, stopped and resumed at any moment.

While a preparation works, its folder also holds `journal.json`: a place between two
documents in the corpus, and how much of the shards belongs to the text before it. A
preparation that was killed goes on from there, to the same bytes. `index.json` comes
last: without it, the folder is no corpus.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spdf_keras.data.corpus.documents import CorpusReader
from spdf_keras.data.corpus.inputs import Inputs, find_inputs
from spdf_keras.data.corpus.pieces import Piece, cut
from spdf_keras.data.shards.journal import (
    JOURNAL,
    Journal,
    find_finished,
    fingerprint_files,
)
from spdf_keras.data.shards.layout import Layout, claim_corpus, remove_output
from spdf_keras.data.shards.pipeline import encode_and_write
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.values import as_type

Report = Callable[[dict[str, Any]], None]

TRAINING_BYTES = 200_000_000


def prepare(
    inputs: Sequence[str | Path],
    tokenizer: Tokenizer | int,
    context_length: int,
    folder: str | Path,
    validation_fraction: float = 0.01,
    on_error: str = "stop",
    report: Report | None = None,
    text_key: str = "text",
) -> dict[str, Any]:
    """Tokenises a corpus and writes it as shards of packed sequences.

    Called again after it was stopped, it goes on, and on a finished folder it does
    nothing. See `CorpusReader` for what is read and what is left out.

    Args:
        inputs: Files, folders and patterns, as for `find_inputs`.
        tokenizer: Encodes the corpus; or the vocabulary size of one that is
            trained on the first documents of each file, an equal share of
            `TRAINING_BYTES` each.
        context_length: Tokens that a model will see at once.
        folder: Where the shards go; must not exist or be empty, or be the work of
            an earlier call with the same inputs and settings.
        validation_fraction: Share of documents to validate on, in `[0, 1)`.
        on_error: `stop` or `skip`.
        report: Gets the counts after each chunk, for a progress display.
        text_key: The key of the text in JSON lines.

    Returns:
        The index: counts, checksums, context length, tokenizer fingerprint.

    Raises:
        InputError: If an argument is out of range, the folder holds something
            else or another process writes into it, the corpus cannot be read or has
            less than one sequence.
    """
    layout = Layout(context_length, validation_fraction)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = int(as_type("vocabulary_size", int, tokenizer))
    folder = Path(folder)
    files = find_inputs(inputs, [folder], text_key)
    settings = {
        "inputs": fingerprint_files(files),
        "tokenizer": tokenizer if isinstance(tokenizer, int) else tokenizer.fingerprint,
        "context_length": layout.context_length,
        "validation_fraction": validation_fraction,
    }
    if text_key != "text":  # without the default, older folders stay valid
        settings["text_key"] = text_key
    fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    finished = find_finished(folder, fingerprint)
    if finished:
        return finished
    with claim_corpus(folder):
        preparation = _Preparation(files, layout, folder, on_error, text_key)
        return preparation.run(
            tokenizer, Journal(folder, settings), fingerprint, report
        )


class _Preparation:
    """The preparation of one corpus, from its start or from where it was stopped."""

    def __init__(
        self,
        files: Inputs,
        layout: Layout,
        folder: Path,
        on_error: str,
        text_key: str,
    ) -> None:
        self._files, self._layout, self._folder = files, layout, folder
        self._on_error, self._text_key = on_error, text_key

    def run(
        self,
        tokenizer: Tokenizer | int,
        journal: Journal,
        fingerprint: str,
        report: Report | None,
    ) -> dict[str, Any]:
        state = journal.read()
        reader = self._reader(state.get("reader"))
        tokenizer = self._tokenizer(tokenizer, is_resumed=bool(state))
        writer = self._layout.writer(self._folder, tokenizer, state.get("writer"))
        total_bytes = sum(file.stat().st_size for file in self._files)

        def save(mark: dict[str, Any]) -> None:
            journal.write({"writer": writer.state(), "reader": mark})

        def progress() -> None:
            if report:
                sizes = {"file_bytes": reader.file_bytes, "total_bytes": total_bytes}
                report({"bytes": writer.bytes, "tokens": writer.tokens, **sizes})

        progress()
        try:
            encode_and_write(
                reader.pieces(), tokenizer, writer, reader.mark, save, progress
            )
            mark = reader.mark()
            # A kill after this repeats the end of the work only.
            save(mark)
            corpus = {"files": len(self._files), "bytes": writer.bytes, **mark}
            corpus["files_left_out"] = self._files.left_out
            del corpus["place"]
            return self._layout.finish(
                self._folder, writer, tokenizer, corpus, prepared_from=fingerprint
            )
        except InputError:
            writer.close()
            if not journal.path.exists():
                remove_output(self._folder)
            raise
        finally:
            writer.close()

    def _reader(self, mark: dict[str, Any] | None) -> CorpusReader:
        reader = CorpusReader(self._files, self._on_error, mark, self._text_key)
        if self._text_key != "text" and not reader.has_json_lines:
            raise InputError(
                "`text_key` is the key of the text in JSON lines. Received: "
                f"'{self._text_key}', and no input of JSON lines. Leave it out."
            )
        return reader

    def _tokenizer(self, tokenizer: Tokenizer | int, is_resumed: bool) -> Tokenizer:
        if is_resumed:
            return Tokenizer.load(self._folder / "tokenizer")
        if isinstance(tokenizer, int):
            sample = training_sample(
                self._files, TRAINING_BYTES, self._on_error, self._text_key
            )
            tokenizer = Tokenizer.train(sample, tokenizer)
        tokenizer.save(self._folder / "tokenizer")
        return tokenizer


def write_shards(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    context_length: int,
    folder: str | Path,
    validation_fraction: float = 0.01,
) -> dict[str, Any]:
    """Writes documents from anywhere as shards, in one go; see `prepare`.

    Args:
        documents: The corpus; read once, in constant memory.
        tokenizer: Encodes them; a copy is saved beside the shards.
        context_length: Tokens that a model will see at once.
        folder: Where to write; must not exist or be empty.
        validation_fraction: Share of documents to validate on, in `[0, 1)`.

    Returns:
        The index: counts, checksums, context length, tokenizer fingerprint.

    Raises:
        InputError: If the folder is not empty, an argument is out of range, or
            the corpus is too short for one sequence of training.
    """
    layout = Layout(context_length, validation_fraction)
    folder = Path(folder)
    with claim_corpus(folder):
        if (folder / JOURNAL).exists():
            raise InputError(
                f"The folder '{folder}' holds a preparation that is not finished: "
                "choose another folder."
            )
        tokenizer.save(folder / "tokenizer")
        writer = layout.writer(folder, tokenizer)
        try:
            encode_and_write(_pieces(documents), tokenizer, writer)
            corpus = {"bytes": writer.bytes}
            return layout.finish(folder, writer, tokenizer, corpus)
        except BaseException:
            writer.close()
            remove_output(folder)
            raise


def _pieces(documents: Iterable[str]) -> Iterator[Piece]:
    for document in documents:
        *parts, last = cut(document, len(document))
        yield from (Piece(part, last=False) for part in parts)
        yield Piece(last, last=True)


def training_sample(
    files: Sequence[Path],
    limit_bytes: int,
    on_error: str = "stop",
    text_key: str = "text",
) -> Iterator[str]:
    """Yields the first documents of each file, the same number of bytes of each.

    Bytes that a short file lacks are shared by the files after it.
    """
    for index, file in enumerate(files):
        share = limit_bytes // (len(files) - index)
        for piece in CorpusReader([file], on_error, text_key=text_key).pieces():
            if share <= 0:
                break
            yield piece.text
            size = len(piece.text.encode("utf-8"))
            share, limit_bytes = share - size, limit_bytes - size
