"""What a server has done, in the text format of Prometheus."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from spdf_keras.serving.engine import Engine

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)

# Counters and gauges of each engine: name, meaning, value.
_COUNTERS: Sequence[tuple[str, str, Callable[[Engine], int]]] = (
    ("prompt_tokens", "Tokens of prompts.", lambda e: e.counts.prompt_tokens),
    ("tokens", "Tokens that were decoded.", lambda e: e.counts.tokens),
    ("steps", "Decoding steps.", lambda e: e.counts.steps),
    ("step_slots", "Slots in use, added up step by step.", lambda e: e.counts.slots),
    ("cancelled", "Completions whose clients left.", lambda e: e.counts.cancelled),
    ("failed", "Completions that failed.", lambda e: e.counts.failures),
)
_GAUGES: Sequence[tuple[str, str, Callable[[Engine], int]]] = (
    ("active", "Completions that are being decoded.", lambda e: e.active),
    ("waiting", "Completions that wait for a slot.", lambda e: e.waiting),
    ("slots", "Completions that can be decoded at once.", lambda e: e.slots),
)


class Metrics:
    """Metrics of a server: what its engines have counted, and its requests.

    Args:
        engines: The engine of each run by name.

    Attributes:
        requests: Counts answers by `run` and `status`.
        seconds: Seconds from a request to the end of its answer, by `run`.
        first_seconds: Seconds to its first token, by `run`; streams alone have it.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._engines = engines
        self._registry = CollectorRegistry()
        registry: Any = self._registry
        registry.register(self)
        self.requests = Counter(
            "spdf_requests", "Answers.", ["run", "status"], registry=registry
        )
        self.seconds, self.first_seconds = (
            Histogram(name, text, ["run"], registry=registry, buckets=_SECONDS)
            for name, text in (
                ("spdf_request_seconds", "Seconds of a whole answer."),
                ("spdf_first_token_seconds", "Seconds to the first token of a stream."),
            )
        )

    def collect(self) -> Iterator[Any]:
        """The engines' values, when they are asked for."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for kind, rows in (
            (CounterMetricFamily, _COUNTERS),
            (GaugeMetricFamily, _GAUGES),
        ):
            for name, text, value in rows:
                family = kind(f"spdf_{name}", text, labels=["run"])
                for run, engine in self._engines.items():
                    family.add_metric([run], value(engine))
                yield family

    def text(self) -> bytes:
        """All metrics."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self._registry))
