"""Answers of the OpenAI completions protocol."""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spdf_keras.serving.text import Piece, Token


@dataclass
class Choice:
    """A completion that has ended.

    Attributes:
        text: The whole text.
        tokens: Its tokens.
        reason: `stop` or `length`.
    """

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    reason: str | None = None

    def add(self, piece: Piece) -> None:
        """Adds the next part."""
        self.text += piece.text
        self.tokens += piece.tokens


class Reply:
    """The answers to one request.

    Args:
        model: Name of the run.
        logprobs: Whether they have log-probabilities.
        prompt_tokens: Tokens of all prompts, each counted once.
    """

    def __init__(self, model: str, logprobs: bool, prompt_tokens: int) -> None:
        self._logprobs, self._prompt_tokens = logprobs, prompt_tokens
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, choices: Sequence[Choice], tokens: int) -> dict[str, Any]:
        """The answer with all completions, which have `tokens` new tokens together."""
        rows = [
            self._choice(index, choice.text, choice.tokens, choice.reason)
            for index, choice in enumerate(choices)
        ]
        return {**self._head, "choices": rows, "usage": self._usage(tokens)}

    def part(self, index: int, piece: Piece, reason: str | None = None) -> bytes:
        """A part of a stream: the next text of completion `index`, or its end."""
        choice = self._choice(index, piece.text, piece.tokens, reason)
        return as_event({**self._head, "choices": [choice]})

    def usage(self, tokens: int) -> bytes:
        """The part of a stream that has the numbers of tokens."""
        document = {**self._head, "choices": [], "usage": self._usage(tokens)}
        return as_event(document)

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
        }

    def _choice(
        self, index: int, text: str, tokens: Sequence[Token], reason: str | None
    ) -> dict[str, Any]:
        logprobs = None
        if self._logprobs:
            logprobs = {
                "tokens": [token.text for token in tokens],
                "token_logprobs": [token.logprob for token in tokens],
                "top_logprobs": [
                    None if token.logprob is None else token.top for token in tokens
                ],
                "text_offset": [token.offset for token in tokens],
            }
        return {
            "text": text,
            "index": index,
            "logprobs": logprobs,
            "finish_reason": reason,
        }


def as_event(document: Any) -> bytes:
    r"""A document as a server-sent event.

    Example:
        >>> as_event({"a": 1})
        b'data: {"a": 1}\n\n'
    """
    # Escapes keep line ends of any kind out of the event.
    return f"data: {json.dumps(document)}\n\n".encode("ascii")


END_OF_EVENTS = b"data: [DONE]\n\n"
