"""From tokens to text, while they come: whole characters, up to a stop string."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from spdf_keras.data.tokenizers.bpe import Tokenizer, byte_characters


@dataclass
class Token:
    """A token of a text, with what a client can ask of it.

    Attributes:
        text: The token by itself; a part of a character is U+FFFD.
        logprob: Its log-probability; None for the first token of all and if nobody
        asked.
        top: The likeliest tokens at its place with their log-probabilities, best first.
        offset: Characters of the text before it.
    """

    text: str
    logprob: float | None = None
    top: dict[str, float] = field(default_factory=dict)
    offset: int = 0


class Piece(NamedTuple):
    """The next part of a text that can be sent.

    Attributes:
        text: Its characters; it may be empty.
        tokens: The tokens that start in it.
    """

    text: str
    tokens: list[Token]


class TokenTable:
    r"""The bytes and the text of each token.

    Args:
        tokenizer: The tokenizer of the run.

    Example:
        >>> table = TokenTable(Tokenizer.train(["a"], 257))
        >>> table.bytes_of(table.tokenizer.encode("é")[0])
        b'\xc3'
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        value = {character: byte for byte, character in enumerate(byte_characters())}
        self._bytes = {
            number: _as_bytes(token, value)
            for token, number in tokenizer.vocabulary.items()
        }

    def bytes_of(self, token_id: int) -> bytes:
        """Bytes of a token; none for one that the tokenizer does not have."""
        return self._bytes.get(token_id, b"")

    def text_of(self, token_id: int) -> str:
        """Text of a token by itself; bytes that are no UTF-8 become U+FFFD."""
        return self.bytes_of(token_id).decode("utf-8", "replace")

    def starting_with(self, text: str) -> list[int]:
        """Tokens that start with a text; a continuation can end at them."""
        start = text.encode("utf-8")
        return [i for i, content in self._bytes.items() if content.startswith(start)]


def _as_bytes(token: str, value: dict[str, int]) -> bytes:
    if all(character in value for character in token):
        return bytes(value[character] for character in token)
    return token.encode("utf-8")  # a special token of another alphabet


class TextStream:
    """The text of a continuation, released as soon as nothing can take it back.

    A character is held until its last byte has come, and the beginning of a stop string
    until it is certain that it is none.

    Args:
        table: The tokens' bytes.
        stops: Strings that end the text; they are no part of it.

    Attributes:
        stopped: Whether a stop string has come.

    Example:
        >>> table = TokenTable(Tokenizer.train(["a"], 257))
        >>> stream, ids = TextStream(table, [".."]), table.tokenizer.encode("a..b")
        >>> [stream.push(i, Token(table.text_of(i))).text for i in ids[:3]]
        ['a', '', '']
        >>> stream.stopped
        True
    """

    def __init__(self, table: TokenTable, stops: Sequence[str] = ()) -> None:
        self._table, self._stops = table, tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # What is not released yet, and how many characters are.
        self._held, self._released = "", 0
        self._tokens: list[Token] = []
        self.stopped = False

    @property
    def length(self) -> int:
        """Characters that are released."""
        return self._released

    def shift(self, characters: int) -> None:
        """Starts behind a text of so many characters, before the first token."""
        self._released = characters

    def push(self, token_id: int, token: Token) -> Piece:
        """Adds a token and returns what can be sent."""
        token.offset = self._released + len(self._held)
        self._tokens.append(token)
        self._held += self._decoder.decode(self._table.bytes_of(token_id))
        return self._release()

    def end(self) -> Piece:
        """Returns the rest; the continuation has ended without a stop string."""
        self._held += self._decoder.decode(b"", final=True)
        piece = self._release()
        if self.stopped:
            return piece
        rest = Piece(piece.text + self._held, piece.tokens + self._tokens)
        self._released += len(self._held)
        self._held, self._tokens = "", []
        return rest

    def _release(self) -> Piece:
        found = [i for stop in self._stops if (i := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
        held = 0 if found else max(map(self._beginning, self._stops), default=0)
        text = self._held[: len(self._held) - held]
        self._held = self._held[len(text) :]
        self._released += len(text)
        ready = [token for token in self._tokens if token.offset < self._released]
        self._tokens = [] if found else self._tokens[len(ready) :]
        return Piece(text, ready)

    def _beginning(self, stop: str) -> int:
        """Length of the longest beginning of a stop string that ends the text."""
        longest = min(len(stop) - 1, len(self._held))
        return next(
            (n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0
        )
