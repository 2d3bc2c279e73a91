"""From a corpus to a folder of shards, on all cores, stopped and resumed.

One thread reads, two hand chunks of text to the tokenizer, which uses every core,
and what comes back is packed in the order of reading. So the result depends on the
corpus alone, not on timing.

While it works, the folder also holds `journal.json`: a place between two documents
in the corpus, and how much of the shards belongs to what is before it. A preparation
that was killed goes on from there, to the same bytes. `index.json` comes last: without
it, the folder is no corpus.
"""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spdf_keras.data.corpus.documents import CorpusReader
from spdf_keras.data.corpus.inputs import Inputs, find_inputs
from spdf_keras.data.corpus.pieces import Piece, cut
from spdf_keras.data.shards.journal import (
    JOURNAL,
    Journal,
    find_finished,
    fingerprint_files,
)
from spdf_keras.data.shards.writer import SHARD_NAME, ShardWriter
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.files import remove_files, replace_file, sync_folder
from spdf_keras.folders import claim
from spdf_keras.values import as_type, check_integers

Report = Callable[[dict[str, Any]], None]

TRAINING_BYTES = 200_000_000
_CHUNK_CHARACTERS = 2**20
_CHUNKS_AT_ONCE = 3
_JOURNAL_SECONDS = 5.0


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
    """Tokenises a corpus, packs it and writes it as shards.

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
    context_length = _check(context_length, validation_fraction)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = int(as_type("vocabulary_size", int, tokenizer))
    folder = Path(folder)
    files = find_inputs(inputs, [folder], text_key)
    settings = {
        "inputs": fingerprint_files(files),
        "tokenizer": tokenizer if isinstance(tokenizer, int) else tokenizer.fingerprint,
        "context_length": context_length,
        "validation_fraction": validation_fraction,
    }
    if text_key != "text":  # so that folders of before there was a choice stay valid
        settings["text_key"] = text_key
    fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    done = find_finished(folder, fingerprint)
    if done:
        return done
    with _writing(folder):
        return _prepare(
            files, tokenizer, folder, settings, fingerprint, on_error, report
        )


def _prepare(
    files: Inputs,
    tokenizer: Tokenizer | int,
    folder: Path,
    settings: dict[str, Any],
    fingerprint: str,
    on_error: str,
    report: Report | None,
) -> dict[str, Any]:
    journal = Journal(folder, settings)
    state = journal.read()
    text_key = settings.get("text_key", "text")
    context_length = settings["context_length"]
    reader = CorpusReader(files, on_error, state.get("reader"), text_key)
    if text_key != "text" and not reader.has_json_lines:
        raise InputError(
            f"`text_key` is the key of the text in JSON lines. Received: '{text_key}', "
            "and no input of JSON lines. Leave it out."
        )
    if state:
        tokenizer = Tokenizer.load(folder / "tokenizer")
    else:
        if isinstance(tokenizer, int):
            sample = training_sample(files, TRAINING_BYTES, on_error, text_key)
            tokenizer = Tokenizer.train(sample, tokenizer)
        tokenizer.save(folder / "tokenizer")
    assert isinstance(tokenizer, Tokenizer)
    writer = _writer(
        folder,
        tokenizer,
        context_length,
        settings["validation_fraction"],
        state.get("writer"),
    )

    def save(mark: dict[str, Any]) -> None:
        journal.write({"writer": writer.state(), "reader": mark})

    def tell() -> None:
        if report:
            sizes = {"file_bytes": reader.file_bytes, "total_bytes": total_bytes}
            report({"bytes": writer.bytes, "tokens": writer.tokens, **sizes})

    total_bytes = sum(file.stat().st_size for file in files)
    tell()
    try:
        _pack(reader.pieces(), reader.mark, tokenizer, writer, save, tell)
        mark = reader.mark()
        # Finishing does nothing that going on from here would not do again.
        save(mark)
        corpus = {"files": len(files), "bytes": writer.bytes, **mark}
        corpus["files_left_out"] = files.left_out
        del corpus["place"]
        return _finish(
            writer, tokenizer, context_length, folder, corpus, prepared_from=fingerprint
        )
    except InputError:
        writer.close()
        if not journal.path.exists():
            _remove(folder)
        raise
    finally:
        writer.close()


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
    context_length = _check(context_length, validation_fraction)
    folder = Path(folder)
    with _writing(folder):
        if (folder / JOURNAL).exists():
            raise InputError(
                f"The folder '{folder}' holds a preparation that is not finished: "
                "choose another folder."
            )
        tokenizer.save(folder / "tokenizer")
        writer = _writer(folder, tokenizer, context_length, validation_fraction, None)
        try:
            _pack(_pieces(documents), dict, tokenizer, writer, lambda mark: None)
            corpus = {"bytes": writer.bytes}
            return _finish(writer, tokenizer, context_length, folder, corpus)
        except BaseException:
            writer.close()
            _remove(folder)
            raise


def training_sample(
    files: Sequence[Path],
    limit_bytes: int,
    on_error: str = "stop",
    text_key: str = "text",
) -> Iterator[str]:
    """Yields the first documents of each file, the same bytes of each.

    What a file is too short for is shared by those after it.
    """
    for index, file in enumerate(files):
        share = limit_bytes // (len(files) - index)
        for piece in CorpusReader([file], on_error, text_key=text_key).pieces():
            if share <= 0:
                break
            yield piece.text
            size = len(piece.text.encode("utf-8"))
            share, limit_bytes = share - size, limit_bytes - size


class _Chunk(NamedTuple):
    pieces: list[Piece]
    mark: dict[str, Any] | None  # None where a document goes on in the next chunk


def _pack(
    pieces: Iterator[Piece],
    mark: Callable[[], dict[str, Any]],
    tokenizer: Tokenizer,
    writer: ShardWriter,
    save: Callable[[dict[str, Any]], None],
    tell: Callable[[], None] = lambda: None,
) -> None:
    waiting: deque[tuple[_Chunk, Future[list[NDArray[np.integer]]]]] = deque()
    saved = time.monotonic()

    def take() -> None:
        nonlocal saved
        chunk, token_ids = waiting.popleft()
        writer.add(chunk.pieces, token_ids.result())
        tell()
        if chunk.mark is not None and time.monotonic() - saved >= _JOURNAL_SECONDS:
            save(chunk.mark)
            saved = time.monotonic()

    with ThreadPoolExecutor(2) as pool:
        try:
            for chunk in _chunks(pieces, mark):
                texts = [piece.text for piece in chunk.pieces]
                encode = pool.submit(tokenizer.encode_arrays, texts, writer.dtype)
                waiting.append((chunk, encode))
                if len(waiting) == _CHUNKS_AT_ONCE:
                    take()
        except InputError:
            last = None
            while waiting:
                last = waiting[0][0].mark
                take()
            if last is not None:
                save(last)
            raise
        while waiting:
            take()


def _chunks(
    pieces: Iterator[Piece], mark: Callable[[], dict[str, Any]]
) -> Iterator[_Chunk]:
    chunk: list[Piece] = []
    size = 0
    try:
        for piece in pieces:
            chunk.append(piece)
            size += len(piece.text)
            if size >= _CHUNK_CHARACTERS:
                yield _Chunk(chunk, mark() if piece.last else None)
                chunk, size = [], 0
    except InputError:
        # What comes before a line that is refused is not done twice.
        if chunk:
            yield _Chunk(chunk, mark() if chunk[-1].last else None)
        raise
    if chunk:
        yield _Chunk(chunk, None)


def _pieces(documents: Iterable[str]) -> Iterator[Piece]:
    for document in documents:
        *parts, last = cut(document, len(document))
        yield from (Piece(part, last=False) for part in parts)
        yield Piece(last, last=True)


def _writer(
    folder: Path,
    tokenizer: Tokenizer,
    context_length: int,
    validation_fraction: float,
    state: dict[str, Any] | None,
) -> ShardWriter:
    size, end = tokenizer.vocabulary_size, tokenizer.end_token_id
    return ShardWriter(folder, context_length, size, end, validation_fraction, state)


def _finish(
    writer: ShardWriter,
    tokenizer: Tokenizer,
    context_length: int,
    folder: Path,
    corpus: dict[str, Any],
    **more: Any,
) -> dict[str, Any]:
    splits = writer.finish()
    if not splits["train"]["sequences"]:
        _remove(folder)
        raise InputError(
            f"The corpus is too short: {splits['train']['tokens']} "
            f"tokens do not fill one sequence of {context_length + 1}. "
            f"Give more text or a shorter context length.{_left_out(corpus)}"
        )
    index = {
        "format": 1,
        "context_length": context_length,
        "dtype": writer.dtype.name,
        "tokenizer": tokenizer.fingerprint,
        "corpus": corpus,
        "splits": splits,
        **more,
    }
    sync_folder(folder)
    replace_file(folder / "index.json", json.dumps(index, indent=2) + "\n")
    (folder / JOURNAL).unlink(missing_ok=True)
    return index


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Holds a folder for a new or unfinished corpus."""
    with claim(folder, "corpus"):
        if (folder / "index.json").exists():
            raise InputError(
                f"The folder '{folder}' is not empty: choose another. It holds another "
                "corpus."
            )
        yield


def _remove(folder: Path) -> None:
    """Removes what a preparation has written, and nothing else."""
    remove_files(folder / "tokenizer", ["vocab.json", "merges.txt"])
    names = [n for n in os.listdir(folder) if SHARD_NAME.fullmatch(n) or n == JOURNAL]
    for name in names:
        (folder / name).unlink()


def _left_out(corpus: dict[str, Any]) -> str:
    return "".join(
        f" Left out: {found['count']} {found.get('unit', 'lines')} ({kind}), the "
        f"first of them {found['first']}."
        for kind, found in corpus.get("skipped", {}).items()
    )


def _check(context_length: int, validation_fraction: float) -> int:
    """The context length as an integer, where both are in range."""
    context_length = as_type("context_length", int, context_length)
    check_integers("context_length", context_length)
    if context_length < 1:
        raise InputError(
            "`context_length` must be positive. Received: "
            f"context_length={context_length}."
        )
    if not 0.0 <= validation_fraction < 1.0:
        raise InputError(
            "`validation_fraction` must be in [0, 1). Received: "
            f"validation_fraction={validation_fraction}."
        )
    return context_length
