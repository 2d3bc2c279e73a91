"""From requests to the engines of the runs that a server has."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.serving.engine import Engine, Event, Generation, check_prompt
from spdf_keras.serving.protocol import CompletionRequest, RequestError
from spdf_keras.serving.sampling import Sampler
from spdf_keras.serving.text import TextStream

# The end of an output of a fine-tuned run.
_PARAGRAPH = "\n\n"


@dataclass(frozen=True)
class ServedRun:
    """A run that is served.

    Attributes:
        engine: Decodes with its model.
        about: What `/v1/models` says of it.
    """

    engine: Engine
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body_bytes: Largest body of a request.
        body_seconds: Longest time in which a body comes.
    """

    body_bytes: int = 1 << 20
    body_seconds: float = 30.0


@dataclass(frozen=True)
class Job:
    """A request that fits a run.

    Attributes:
        name: Name of the run.
        engine: Its engine.
        prompts: Token ids of each prompt.
        request: The request.
    """

    name: str
    engine: Engine
    prompts: list[list[int]]
    request: CompletionRequest

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(map(len, self.prompts))

    def generations(self, emit: Callable[[int, Event], None]) -> list[Generation]:
        """Makes the continuations: `n` of the first prompt, then of the next ones.

        Args:
            emit: Gets the index of a continuation and its events.
        """
        request, table = self.request, self.engine.table
        seed = secrets.randbits(63) if request.seed is None else request.seed
        stops, ends = request.stop, {table.tokenizer.end_token_id}
        if request.separator:
            stops = (*stops, _PARAGRAPH)

        def make(number: int) -> Generation:
            return Generation(
                prompt=self.prompts[number // request.n],
                max_tokens=request.max_tokens,
                sampler=Sampler(
                    request.temperature,
                    request.top_p,
                    seed,
                    number,
                    request.max_tokens,
                ),
                stream=TextStream(table, stops),
                emit=lambda event: emit(number, event),
                end_token_ids=frozenset(ends),
                logprobs=request.logprobs,
                echo=request.echo,
            )

        return [make(number) for number in range(len(self.prompts) * request.n)]


def find_run(runs: Mapping[str, ServedRun], name: str | None) -> str:
    """Returns the name of the run that a request names; None names the only one.

    Raises:
        RequestError: If there is none.
    """
    if name is None and len(runs) == 1:
        return next(iter(runs))
    if name is None or name not in runs:
        known = ", ".join(f"'{run}'" for run in runs)
        message = f"`model` must be one of {known}. "
        message += f"Received: {'none' if name is None else repr(name[:80])}."
        raise RequestError(message, 404, "model", "model_not_found")
    return name


def prepare_job(runs: Mapping[str, ServedRun], request: CompletionRequest) -> Job:
    """Tokenizes a request and checks that it fits its run.

    Raises:
        RequestError: If it does not.
    """
    name = find_run(runs, request.model)
    engine = runs[name].engine
    total = len(request.prompts) * request.n
    if total > engine.queue:
        message = (
            f"`prompt` times `n` must be at most {engine.queue} completions, the "
            f"length of the queue. Received: {total}."
        )
        raise RequestError(message, param="n", code="too_many_completions")
    tokenizer = engine.table.tokenizer
    prompts = []
    for prompt in request.prompts:
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if request.separator or not ids:
            ids.append(tokenizer.end_token_id)
        try:
            check_prompt(engine, ids, request.max_tokens)
        except InputError as error:
            too_long = len(ids) + request.max_tokens > engine.context
            code = "context_length_exceeded" if too_long else "invalid_value"
            raise RequestError(str(error), param="prompt", code=code) from error
        prompts.append(ids)
    return Job(name, engine, prompts, request)
