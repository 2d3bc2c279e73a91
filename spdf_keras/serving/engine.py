"""One model that serves many continuations at once, in a thread of its own."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spdf_keras.errors import InputError
from spdf_keras.model.decoding.running_batch import RunningBatch
from spdf_keras.model.likelihood import Likelihood
from spdf_keras.serving.sampling import Sampler, log_probabilities
from spdf_keras.serving.text import Piece, TextStream, Token, TokenTable

# The most likely tokens that a request can ask for, as in OpenAI's protocol.
MAX_LOGPROBS = 5
# Tokens of prompts, with padding, that join a batch at once. Rows that are being
# decoded wait for them.
_PREFILL_TOKENS = 2048

_log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """The queue has no room for the continuations of a request."""


class Finished(NamedTuple):
    """The end of a continuation.

    Attributes:
        reason: `stop` or `length`, as in OpenAI's protocol.
        tokens: Tokens that were decoded for it, with an end token.
    """

    reason: str
    tokens: int


class Failed(NamedTuple):
    """The end of a continuation that could not be decoded, and why."""

    message: str


Event = Piece | Finished | Failed


@dataclass(eq=False)
class Generation:
    """A continuation that a client waits for.

    Attributes:
        prompt: Token ids, at least one; with `max_tokens` they fit into the context.
        max_tokens: Most tokens that are decoded; 0 decodes none.
        sampler: Chooses them.
        stream: Gets their text.
        emit: Gets each event, in the engine's thread; it must not block.
        end_token_ids: Tokens that end it and are no part of it.
        logprobs: How many likely tokens are returned for each place; None is no
            log-probabilities.
        echo: Whether the prompt is the beginning of the text.
        cancelled: Whether nobody waits any more.
    """

    prompt: list[int]
    max_tokens: int
    sampler: Sampler
    stream: TextStream
    emit: Callable[[Event], None]
    end_token_ids: frozenset[int]
    logprobs: int | None = None
    echo: bool = False
    cancelled: bool = field(default=False, init=False)
    count: int = field(default=0, init=False)


@dataclass
class Counts:
    """What an engine has done so far; `slots` counts rows, step by step."""

    prompt_tokens: int = 0
    tokens: int = 0
    steps: int = 0
    slots: int = 0
    cancelled: int = 0
    failures: int = 0


class Engine:
    """Decodes the continuations of all clients of a model together.

    A continuation takes one of `slots` rows of a batch as soon as one is free, and
    gives it back when it ends or nobody waits for it any more. Greedy continuations
    have the tokens of `generate`.

    Args:
        model: The GPT.
        table: Its tokens.
        slots: Continuations that are decoded at once.
        queue: Continuations that may wait for a slot.
    """

    def __init__(
        self, model: Any, table: TokenTable, slots: int = 16, queue: int = 256
    ) -> None:
        self.table, self.slots, self.queue = table, slots, queue
        self.context = model.embedding.max_sequence_length
        self.vocabulary_size = model.embedding.vocabulary_size
        self.counts = Counts()
        self._batch = RunningBatch(model)
        self._likelihood = Likelihood(model, MAX_LOGPROBS)
        # The continuation of each row of the batch; None where it has ended.
        self._rows: list[Generation | None] = []
        self._tokens: list[int] = []
        self._waiting: deque[Generation] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def active(self) -> int:
        """Continuations that are being decoded."""
        return sum(generation is not None for generation in self._rows)

    @property
    def waiting(self) -> int:
        """Continuations that wait for a slot."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether it takes continuations."""
        return self._thread.is_alive() and not self._closed

    def submit(self, generations: Sequence[Generation]) -> None:
        """Queues the continuations of a request: all of them, or none.

        Raises:
            QueueFullError: If there is no room.
        """
        with self._changed:
            if self._closed or len(self._waiting) + len(generations) > self.queue:
                raise QueueFullError
            self._waiting.extend(generations)
            self._changed.notify()

    def cancel(self, generations: Sequence[Generation]) -> None:
        """Gives the slots of continuations back, for which nobody waits any more."""
        with self._changed:
            for generation in generations:
                generation.cancelled = True
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread; continuations that are not finished fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                while not (self._waiting or self.active or self._closed):
                    self._changed.wait()
                self._drop_cancelled()
                arrived = self._admit()
            try:
                self._turn(arrived)
            except Exception as error:
                _log.exception("A step of decoding has failed.")
                self._fail([*arrived, *self._rows], f"Decoding has failed: {error}")
                self._batch.clear()
                self._rows, self._tokens = [], []
        self._fail([*self._rows, *self._waiting], "The server is stopping.")

    def _drop_cancelled(self) -> None:
        before = self.waiting + self.active
        self._waiting = deque(g for g in self._waiting if not g.cancelled)
        self._rows = [None if g is None or g.cancelled else g for g in self._rows]
        self.counts.cancelled += before - self.waiting - self.active

    def _admit(self) -> list[Generation]:
        """Takes the next waiting continuations that have a slot."""
        arrived: list[Generation] = []
        free, width = self.slots - self.active, 0
        while self._waiting and len(arrived) < free:
            width = max(width, len(self._waiting[0].prompt))
            if arrived and (len(arrived) + 1) * width > _PREFILL_TOKENS:
                break
            arrived.append(self._waiting.popleft())
        return arrived

    def _turn(self, arrived: Sequence[Generation]) -> None:
        """Takes in continuations that have arrived, and one more token of all rows."""
        for generation in arrived:
            self.counts.prompt_tokens += len(generation.prompt)
            if generation.echo:
                self._echo(generation)
            if not generation.max_tokens:
                self._finish(generation, "length")
        started = [generation for generation in arrived if generation.max_tokens]
        if started or 2 * self.active < len(self._rows):
            self._regroup(started)
        if self.active:
            logits = self._batch.step(self._tokens)
            self.counts.steps += 1
            self.counts.slots += self.active
            self._take(range(len(self._rows)), logits)

    def _regroup(self, started: Sequence[Generation]) -> None:
        """Gives the rows of ended continuations to those that start."""
        kept = [row for row, generation in enumerate(self._rows) if generation]
        logits = self._batch.regroup(kept, [g.prompt for g in started])
        self._rows = [*(self._rows[row] for row in kept), *started]
        self._tokens = [*(self._tokens[row] for row in kept), *[0] * len(started)]
        self._take(range(len(kept), len(self._rows)), logits)

    def _take(self, rows: Sequence[int], logits: NDArray[np.float32]) -> None:
        """Chooses the next token of each of these rows."""
        for row, line in zip(rows, logits, strict=True):
            generation = self._rows[row]
            if generation is not None and self._take_one(generation, row, line):
                self._rows[row] = None

    def _take_one(
        self, generation: Generation, row: int, logits: NDArray[np.float32]
    ) -> bool:
        """Chooses a token; returns whether the continuation has ended."""
        if not np.isfinite(logits.max()):
            message = (
                "The model's logits must be finite to choose a token. Received: a "
                "model whose logits are not; its training has diverged."
            )
            self._fail([generation], message)
            return True
        token_id = generation.sampler.choose(logits)
        self._tokens[row] = token_id
        self.counts.tokens += 1
        generation.count += 1
        if token_id in generation.end_token_ids:
            self._finish(generation, "stop")
            return True
        token = Token(self.table.text_of(token_id))
        if generation.logprobs is not None:
            logprob, ranked = log_probabilities(logits, token_id, generation.logprobs)
            token.logprob, token.top = logprob, self._named(ranked)
        self._send(generation, generation.stream.push(token_id, token))
        if generation.stream.stopped:
            generation.emit(Finished("stop", generation.count))
            return True
        if generation.count >= generation.max_tokens:
            self._finish(generation, "length")
            return True
        return False

    def _echo(self, generation: Generation) -> None:
        prompt, logprobs = generation.prompt, generation.logprobs
        tokens = [Token(self.table.text_of(token_id)) for token_id in prompt]
        if logprobs is not None and len(prompt) > 1:
            [scores] = self._likelihood([(prompt, 1)])
            for place, token in enumerate(tokens[1:]):
                ids = scores.top_token_ids[place, :logprobs].tolist()
                values = scores.top_logprobs[place].tolist()
                token.logprob = float(scores.logprobs[place])
                token.top = self._named(list(zip(ids, values, strict=False)))
        # A stop string ends the continuation, and the prompt may hold it.
        stream = TextStream(self.table)
        for token_id, token in zip(prompt, tokens, strict=True):
            self._send(generation, stream.push(token_id, token))
        rest = stream.end()
        self._send(generation, rest)
        generation.stream.shift(stream.length)

    def _named(self, ranked: Sequence[tuple[int, float]]) -> dict[str, float]:
        named: dict[str, float] = {}
        for (
            token_id,
            logprob,
        ) in ranked:  # of two tokens with one text, the first counts
            named.setdefault(self.table.text_of(token_id), logprob)
        return named

    def _send(self, generation: Generation, piece: Piece) -> None:
        if piece.text or piece.tokens:
            generation.emit(piece)

    def _finish(self, generation: Generation, reason: str) -> None:
        piece = generation.stream.end()
        self._send(generation, piece)
        # The last character may complete a stop string.
        reason = "stop" if generation.stream.stopped else reason
        generation.emit(Finished(reason, generation.count))

    def _fail(self, generations: Sequence[Generation | None], message: str) -> None:
        for generation in generations:
            if generation is not None:
                self.counts.failures += 1
                generation.emit(Failed(message))


def check_prompt(
    engine: Engine, prompt: Sequence[int], max_tokens: int, name: str = "prompt"
) -> None:
    """Refuses a prompt that does not fit, or that holds unknown tokens.

    Raises:
        InputError: With the sizes.
    """
    if len(prompt) + max_tokens > engine.context:
        raise InputError(
            f"`{name}` and `max_tokens` must fit into the context of {engine.context} "
            f"tokens. Received: {len(prompt)} tokens and max_tokens={max_tokens}."
        )
    if not 0 <= min(prompt) <= max(prompt) < engine.vocabulary_size:
        raise InputError(
            f"Token ids of `{name}` must be in [0, {engine.vocabulary_size}). "
            f"Received: {min(prompt)} to {max(prompt)}."
        )
