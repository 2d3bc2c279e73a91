"""A server of tiny models on a port of loopback, and clients of it."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from spdf_keras.serving.engine import Engine
from spdf_keras.serving.server import open_port
from spdf_keras.serving.service import Limits, ServedRun

TEXT = "The harbour of the city has boats, and the café has naïve guests.\n"


@dataclass
class Site:
    """A server on a port of its own."""

    port: int
    runs: dict[str, ServedRun]

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    def send(self, body: Any, **headers: str) -> tuple[HTTPConnection, HTTPResponse]:
        """Posts a body, as JSON unless it is bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connect()
        kind = {"Content-Type": "application/json", **headers}
        connection.request("POST", "/v1/completions", content, kind)
        return connection, connection.getresponse()

    def post(self, body: Any, **headers: str) -> tuple[int, Any]:
        connection, response = self.send(body, **headers)
        with contextlib.closing(connection):
            return response.status, json.loads(response.read())

    def get(self, path: str) -> tuple[int, str]:
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def stream(self, body: Any) -> list[Any]:
        """The events of a stream."""
        connection, response = self.send({**body, "stream": True})
        with contextlib.closing(connection):
            assert response.getheader("Content-Type", "").startswith(
                "text/event-stream"
            )
            parts = response.read().decode().split("\n\n")
        assert parts.pop() == "" and parts.pop() == "data: [DONE]"
        return [json.loads(part.removeprefix("data: ")) for part in parts]


@contextlib.contextmanager
def serving(engines: dict[str, Engine], limits: Limits) -> Iterator[Site]:
    import uvicorn

    from spdf_keras.serving.app import create_app

    runs = {name: ServedRun(e, {"id": name}) for name, e in engines.items()}
    opened = open_port("127.0.0.1", 0)
    config = uvicorn.Config(
        create_app(runs, limits),
        ws="none",
        log_level="error",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([opened],))
    thread.start()
    try:
        yield Site(opened.getsockname()[1], runs)
    finally:
        server.should_exit = True
        thread.join()
        opened.close()


def until(condition: Any, seconds: float = 30) -> None:
    """Waits until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come true"
        time.sleep(0.01)
