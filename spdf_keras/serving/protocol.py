"""Requests of the OpenAI completions protocol, and its errors.

Reference: https://platform.openai.com/docs/api-reference/completions
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.parsing import load_json
from spdf_keras.serving.engine import MAX_LOGPROBS
from spdf_keras.values import as_type, shown

_MAX_STOPS, _MAX_STOP_CHARACTERS = 4, 256
_LARGEST_SEED = 2**63 - 1

# Fields of the protocol that would change the tokens in a way that is not computed
# here. The values are those with which they change nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "suffix": (None, ""),
}


class RequestError(Exception):
    """A request that is refused, with its answer.

    Attributes:
        status: Status of HTTP.
        param: Name of the field that is wrong, if it is one.
        code: Word for programs.
    """

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        own = self.status < 500
        kind = "invalid_request_error" if own else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {
            "error": {
                "message": str(self),
                "type": kind,
                "param": self.param,
                "code": self.code or None,
            }
        }


@dataclass(frozen=True)
class CompletionRequest:
    """A request for completions whose fields are in range.

    Attributes:
        prompts: Texts or token ids; an empty one begins a document.
        model: Name of the run; None takes the only one.
        max_tokens: Most new tokens of each completion.
        temperature: 0 is greedy.
        top_p: Share of the likeliest tokens.
        n: Completions of each prompt.
        seed: Seed of the random choice; None chooses one.
        stop: Strings that end a completion.
        logprobs: Likely tokens that are returned for each place; None is no
            log-probabilities.
        echo: Whether the prompt is the beginning of the text.
        stream: Whether the text is sent as it comes.
        include_usage: Whether a stream ends with the numbers of tokens.
        separator: Whether each prompt is closed by the end-of-text token and each
            completion ends at an empty line, as in fine-tuning. OpenAI does not have
            it.
    """

    prompts: tuple[str | tuple[int, ...], ...]
    model: str | None = None
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    stream: bool = False
    include_usage: bool = False
    separator: bool = False


def parse_request(body: bytes) -> CompletionRequest:
    """Reads the body of a request.

    Raises:
        RequestError: If it is no JSON object, or a field is unknown, of a wrong type or
            out of range; the message names it.

    Example:
        >>> parse_request(b'{"prompt": "The", "stop": "."}').stop
        ('.',)
    """
    try:
        fields = load_json(body)
    except ValueError as error:  # also bytes that are no UTF-8
        message = f"The body must be JSON. Received: {error}."
        raise RequestError(message, code="invalid_json") from error
    if not isinstance(fields, dict):
        message = "The body must be a JSON object, such as "
        message += f'{{"prompt": "The"}}. Received: {shown(fields)}.'
        raise RequestError(message, code="invalid_json")
    for name, neutral in _NEUTRAL.items():
        if name in fields and fields.pop(name) not in neutral:
            message = f"`{name}` is not supported by this server. Leave it out."
            raise RequestError(message, param=name, code="unsupported_parameter")
    fields.pop("user", None)  # a client's own name for its user
    unknown = sorted(fields.keys() - _READERS.keys())
    if unknown:
        known = ", ".join(_READERS)
        message = f"Unknown field `{shown(unknown[0])[1:-1]}`. Known here: {known}."
        raise RequestError(message, param=unknown[0][:80], code="unknown_parameter")
    # As in the protocol, null is the default.
    given = {name: value for name, value in fields.items() if value is not None}
    values: dict[str, Any] = {"prompts": ("",)}
    for name, value in given.items():
        target, read = _READERS[name]
        try:
            values[target] = read(name, value)
        except InputError as error:
            raise RequestError(str(error), param=name, code="invalid_value") from error
    return CompletionRequest(**values)


def _number(kind: type, least: float, most: float) -> Any:
    def read(name: str, value: Any) -> Any:
        number = as_type(name, kind, value)
        if not least <= number <= most:
            raise InputError(
                f"`{name}` must be from {least} to {most}. Received: {shown(value)}."
            )
        return number

    return read


def _top_p(name: str, value: Any) -> float:
    number: float = as_type(name, float, value)
    if not 0 < number <= 1:
        raise InputError(
            f"`{name}` must be above 0 and at most 1. Received: {shown(value)}."
        )
    return number


def _of_type(kind: type) -> Any:
    return lambda name, value: as_type(name, kind, value)


def _text(name: str, value: Any) -> str:
    text: str = as_type(name, str, value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"`{name}` must be text. Received: {shown(text)}, with half of a surrogate "
            "pair."
        ) from error
    return text


def _prompts(name: str, value: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(value, str):
        return (_text(name, value),)
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return tuple(_text(name, item) for item in value)
        if _is_ids(value):
            return (tuple(value),)
        if all(isinstance(item, list) and _is_ids(item) for item in value):
            return tuple(map(tuple, value))
    raise InputError(
        f"`{name}` must be a text, a list of texts, a list of token ids, or a list of "
        f"such lists. Received: {shown(value)}."
    )


def _is_ids(value: list[Any]) -> bool:
    return all(type(item) is int for item in value)


def _stops(name: str, value: Any) -> tuple[str, ...]:
    stops = value if isinstance(value, list) else [value]
    texts = tuple(_text(name, stop) for stop in stops)
    if len(texts) > _MAX_STOPS or not all(
        0 < len(text) <= _MAX_STOP_CHARACTERS for text in texts
    ):
        raise InputError(
            f"`{name}` must be at most {_MAX_STOPS} texts of 1 to "
            f"{_MAX_STOP_CHARACTERS} characters. Received: {shown(value)}."
        )
    return texts


def _include_usage(name: str, value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() - {"include_usage"}:
        raise InputError(
            f'`{name}` must be an object with "include_usage" alone. Received: '
            f"{shown(value)}."
        )
    given = value.get("include_usage")
    return False if given is None else bool(as_type("include_usage", bool, given))


# The field of `CompletionRequest`, and what reads it.
_READERS: Mapping[str, tuple[str, Any]] = {
    "model": ("model", _text),
    "prompt": ("prompts", _prompts),
    "max_tokens": ("max_tokens", _number(int, 0, 2**31 - 1)),
    "temperature": ("temperature", _number(float, 0, 2)),
    "top_p": ("top_p", _top_p),
    "n": ("n", _number(int, 1, 128)),
    "seed": ("seed", _number(int, 0, _LARGEST_SEED)),
    "stop": ("stop", _stops),
    "logprobs": ("logprobs", _number(int, 0, MAX_LOGPROBS)),
    "echo": ("echo", _of_type(bool)),
    "stream": ("stream", _of_type(bool)),
    "stream_options": ("include_usage", _include_usage),
    "separator": ("separator", _of_type(bool)),
}
