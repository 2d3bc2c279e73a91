"""Many continuations at once have the tokens that `generate` gives each alone."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from spdf_keras.errors import InputError
from spdf_keras.serving.engine import (
    Engine,
    Event,
    Failed,
    Finished,
    Generation,
    QueueFullError,
    check_prompt,
)
from spdf_keras.serving.sampling import Sampler
from spdf_keras.serving.text import Piece, TextStream, TokenTable


@pytest.fixture(scope="module")
def engine(models: dict[str, Any], table: TokenTable) -> Iterator[Engine]:
    engine = Engine(models["sparse"], table, slots=4, queue=40)
    yield engine
    engine.close()


@dataclass
class Client:
    """Waits for one continuation."""

    events: list[Event] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, Piece):
            self.ended.set()

    def wait(self) -> str:
        assert self.ended.wait(60)
        return "".join(e.text for e in self.events if isinstance(e, Piece))


def generation(
    engine: Engine, client: Client, prompt: list[int], count: int, **options: Any
) -> Generation:
    temperature = options.pop("temperature", 0)
    stops, seed = options.pop("stops", ()), options.pop("seed", 0)
    index, top_p = options.pop("index", 0), options.pop("top_p", 1.0)
    return Generation(
        prompt=prompt,
        max_tokens=count,
        sampler=Sampler(temperature, top_p, seed, index, count),
        stream=TextStream(engine.table, stops),
        emit=client.emit,
        end_token_ids=frozenset(options.pop("ends", ())),
        **options,
    )


def prompts(count: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 300, n).tolist() for n in rng.integers(1, 40, count)]


def test_greedy_continuations_are_those_of_generate(
    engine: Engine, models: dict[str, Any], table: TokenTable
) -> None:
    texts = prompts(11)
    sizes = [1 + 2 * number for number in range(len(texts))]
    clients = [Client() for _ in texts]
    for client, prompt, size in zip(clients, texts, sizes, strict=True):
        engine.submit([generation(engine, client, prompt, size)])
    for client, prompt, size in zip(clients, texts, sizes, strict=True):
        [expected] = models["sparse"].generate([prompt], max_new_tokens=size)
        assert client.wait() == table.tokenizer.decode(expected)
        assert client.events[-1] == Finished("length", size)


def test_drawn_continuations_are_those_of_generate(
    engine: Engine, models: dict[str, Any], table: TokenTable
) -> None:
    texts = prompts(6)
    clients = [Client() for _ in texts]
    options = {"temperature": 0.8, "top_p": 0.9, "seed": 3}
    engine.submit(
        [
            generation(engine, client, prompt, 12, index=index, **options)
            for index, (client, prompt) in enumerate(zip(clients, texts, strict=True))
        ]
    )
    expected = models["sparse"].generate(
        texts, max_new_tokens=12, sample=True, temperature=0.8, top_p=0.9, seed=3
    )
    assert [c.wait() for c in clients] == [table.tokenizer.decode(x) for x in expected]


def test_an_end_token_ends_a_continuation_and_is_not_in_it(
    engine: Engine, models: dict[str, Any], table: TokenTable
) -> None:
    prompt = prompts(1)[0]
    [tokens] = models["sparse"].generate([prompt], max_new_tokens=8)
    place = tokens.index(tokens[5])
    client = Client()
    engine.submit([generation(engine, client, prompt, 8, ends=[tokens[5]])])
    assert client.wait() == table.tokenizer.decode(tokens[:place])
    assert client.events[-1] == Finished("stop", place + 1)


def test_an_echo_has_the_log_probabilities_of_the_prompt(
    engine: Engine, models: dict[str, Any], table: TokenTable
) -> None:
    prompt, client = prompts(1)[0][:9], Client()
    engine.submit([generation(engine, client, prompt, 3, echo=True, logprobs=2)])
    text = client.wait()
    tokens = [t for e in client.events if isinstance(e, Piece) for t in e.tokens]
    [new] = models["sparse"].generate([prompt], max_new_tokens=3)
    whole = [*prompt, *new]
    assert text == table.tokenizer.decode(prompt) + table.tokenizer.decode(new)
    logits = models["sparse"](np.array([whole]))[0].numpy().astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [logprobs[place, whole[place + 1]] for place in range(len(whole) - 1)]
    assert tokens[0].logprob is None and tokens[0].top == {}
    found = [token.logprob for token in tokens[1:]]
    # Logits reach 40, in float32.
    assert found == pytest.approx(expected, abs=2e-4)
    assert all(len(token.top) in (1, 2) for token in tokens[1:])
    assert [token.offset for token in tokens] == sorted(t.offset for t in tokens)


def test_no_new_tokens_need_no_slot(engine: Engine, table: TokenTable) -> None:
    client = Client()
    engine.submit([generation(engine, client, [5, 6], 0, echo=True)])
    assert client.wait() == table.tokenizer.decode([5, 6])
    assert client.events[-1] == Finished("length", 0)


def test_a_continuation_that_nobody_waits_for_gives_its_slot_back(
    engine: Engine,
) -> None:
    cancelled = engine.counts.cancelled
    left, first = [Client() for _ in range(6)], Client()
    jobs = [generation(engine, client, [1], 60) for client in left]
    engine.submit(jobs)
    engine.cancel(jobs)
    engine.submit([generation(engine, first, [1], 2)])
    first.wait()
    assert engine.counts.cancelled - cancelled == 6
    assert engine.active == 0 and engine.waiting == 0
    assert not any(client.ended.is_set() for client in left)


def test_a_full_queue_takes_all_continuations_of_a_request_or_none(
    engine: Engine,
) -> None:
    with pytest.raises(QueueFullError):
        engine.submit([generation(engine, Client(), [1], 1) for _ in range(41)])
    assert engine.waiting == 0


def test_an_error_of_a_step_fails_its_continuations_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, step = Client(), engine._batch.step

    def broken(tokens: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(engine._batch, "step", broken)
    engine.submit([generation(engine, client, [1], 5)])
    client.wait()
    assert client.events[-1] == Failed("Decoding has failed: no memory")
    monkeypatch.setattr(engine._batch, "step", step)
    after = Client()
    engine.submit([generation(engine, after, [1], 5)])
    after.wait()
    assert after.events[-1] == Finished("length", 5)


def test_a_model_that_has_diverged_fails(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    nothing = np.full((1, 320), np.nan, np.float32)
    monkeypatch.setattr(engine._batch, "regroup", lambda kept, prompts: nothing)
    engine.submit([generation(engine, client, [1], 5)])
    client.wait()
    assert isinstance(client.events[-1], Failed)
    assert "its training has diverged" in client.events[-1].message


def test_a_prompt_that_does_not_fit_is_refused(engine: Engine) -> None:
    check_prompt(engine, [1] * 60, 4)
    with pytest.raises(InputError, match="context of 64 tokens. Received: 60 tokens"):
        check_prompt(engine, [1] * 60, 5)
    with pytest.raises(InputError, match=r"in \[0, 320\). Received: 1 to 320."):
        check_prompt(engine, [1, 320], 5)


def test_a_closed_engine_fails_what_it_has(
    models: dict[str, Any], table: TokenTable
) -> None:
    engine, clients = Engine(models["dense"], table, slots=1), [Client(), Client()]
    engine.submit([generation(engine, client, [1], 60) for client in clients])
    engine.close()
    assert not engine.is_alive
    assert isinstance(clients[1].events[-1], Failed)
    with pytest.raises(QueueFullError):
        engine.submit([])
