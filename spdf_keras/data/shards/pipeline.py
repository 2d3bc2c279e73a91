"""From pieces of documents to a writer, with the tokenizer on all cores.

One thread reads, two hand chunks of text to the tokenizer, which uses every core, and
the token ids are written in the order of reading. So the result depends on the corpus
alone, not on timing.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spdf_keras.data.corpus.pieces import Piece
from spdf_keras.data.shards.writer import ShardWriter
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError

Mark = dict[str, Any]

_CHUNK_CHARACTERS = 2**20
_CHUNKS_AT_ONCE = 3
_JOURNAL_SECONDS = 5.0


class _Chunk(NamedTuple):
    pieces: list[Piece]
    mark: Mark | None  # None where a document continues in the next chunk


def encode_and_write(
    pieces: Iterator[Piece],
    tokenizer: Tokenizer,
    writer: ShardWriter,
    mark: Callable[[], Mark] = dict,
    save: Callable[[Mark], None] = lambda mark: None,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Encodes pieces and hands them to a writer.

    Args:
        pieces: The documents of a corpus.
        tokenizer: Encodes them.
        writer: Gets them in their order.
        mark: The place in the corpus after the document that was read last.
        save: Records the state of the writer with such a place; called every few
            seconds, and before an error of the corpus is raised.
        progress: Called after each chunk.

    Raises:
        InputError: From `pieces`; what comes before the error is written.
    """
    waiting: deque[tuple[_Chunk, Future[list[NDArray[np.integer]]]]] = deque()
    saved = time.monotonic()

    def take() -> None:
        nonlocal saved
        chunk, token_ids = waiting.popleft()
        writer.add(chunk.pieces, token_ids.result())
        progress()
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


def _chunks(pieces: Iterator[Piece], mark: Callable[[], Mark]) -> Iterator[_Chunk]:
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
        # Keeps the documents before a line that is refused.
        if chunk:
            yield _Chunk(chunk, mark() if chunk[-1].last else None)
        raise
    if chunk:
        yield _Chunk(chunk, None)
