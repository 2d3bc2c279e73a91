"""The routes of a server: the protocol of OpenAI, health, metrics and the page."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from spdf_keras.serving.engine import (
    Event,
    Failed,
    Finished,
    Generation,
    QueueFullError,
)
from spdf_keras.serving.metrics import Metrics
from spdf_keras.serving.page import page
from spdf_keras.serving.protocol import RequestError, parse_request
from spdf_keras.serving.replies import END_OF_EVENTS, Choice, Reply, as_event
from spdf_keras.serving.service import Job, Limits, ServedRun, find_run, prepare_job
from spdf_keras.serving.text import Piece

_STOPPED_WAITING = 499  # nginx's word for a client that has left
# A body that is too large is read up to this multiple of the limit and discarded, as
# most clients read an answer only after they have sent all. It is never in memory.
_DISCARDED = 16


class _Work:
    """The continuations of one request, whose events come from the engine's thread."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.tokens = 0
        total = len(job.prompts) * job.request.n
        self.choices = [Choice() for _ in range(total)]
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._generations: Sequence[Generation] = job.generations(self._emit)

    def start(self) -> None:
        """Queues them."""
        try:
            self.job.engine.submit(self._generations)
        except QueueFullError as error:
            message = (
                f"The queue of '{self.job.name}' is full: {self.job.engine.queue} "
                "completions wait. Try again later."
            )
            raise RequestError(message, 429, code="queue_full") from error

    def stop(self) -> None:
        """Gives their slots back; it changes nothing after their end."""
        self.job.engine.cancel(self._generations)

    async def events(self) -> AsyncIterator[tuple[int, Piece | Finished]]:
        """Yields the events until all have ended.

        Raises:
            RequestError: If one of them failed.
        """
        left = len(self._generations)
        while left:
            index, event = await self._events.get()
            if isinstance(event, Failed):
                raise RequestError(event.message, 500, code="decoding_failed")
            if isinstance(event, Finished):
                left -= 1
                self.tokens += event.tokens
            yield index, event

    def _emit(self, index: int, event: Event) -> None:
        if isinstance(event, Piece) and not self.job.request.stream:
            self.choices[index].add(event)  # nobody need wake up for it
            return
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))
        except RuntimeError:  # the server has stopped
            self._generations[index].cancelled = True


def create_app(runs: Mapping[str, ServedRun], limits: Limits | None = None) -> Any:
    """Makes the FastAPI application of some runs.

    Args:
        runs: The runs by name.
        limits: Limits of the bodies.
    """
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response, StreamingResponse
    from starlette.exceptions import HTTPException

    limits = limits or Limits()
    metrics = Metrics({name: run.engine for name, run in runs.items()})
    # The pages of FastAPI's own documentation load scripts of foreign hosts.
    app = FastAPI(title="spdf_keras", docs_url=None, redoc_url=None, openapi_url=None)

    def refusal(error: RequestError, run: str = "") -> Response:
        metrics.requests.labels(run, error.status).inc()
        headers = {"Retry-After": "1"} if error.status == 429 else {}
        # What is left of a body that was not read would be taken for the next request.
        if error.status in (408, 413):
            headers["Connection"] = "close"
        return JSONResponse(error.document(), error.status, headers)

    class Stream(StreamingResponse):
        """Gives slots back however the answer ends, even if it has not begun."""

        work: _Work

        async def __call__(self, *arguments: Any) -> None:
            try:
                await super().__call__(*arguments)
            finally:
                self.work.stop()

    @app.exception_handler(RequestError)
    async def refuse(request: Request, error: RequestError) -> Response:
        return refusal(error)

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        message = f"There is no {request.method} {request.url.path[:80]} here."
        return refusal(RequestError(message, error.status_code, code="unknown_url"))

    @app.get("/v1/models")
    async def list_models() -> Any:
        return {"object": "list", "data": [dict(run.about) for run in runs.values()]}

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> Any:
        return dict(runs[find_run(runs, name)].about)

    @app.api_route("/healthz", methods=["GET", "HEAD"])
    async def health() -> Response:
        dead = [name for name, run in runs.items() if not run.engine.is_alive]
        status = "ok" if not dead else f"not decoding: {', '.join(dead)}"
        return JSONResponse({"status": status}, 503 if dead else 200)

    @app.get("/metrics")
    async def get_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.api_route("/", methods=["GET", "HEAD"])
    async def get_page() -> Response:
        content, headers = page()
        return Response(content, headers=headers, media_type="text/html")

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        start = time.perf_counter()
        body = await _read_body(request, limits)
        # A long text takes a moment to tokenize.
        job = await asyncio.to_thread(lambda: prepare_job(runs, parse_request(body)))
        work = _Work(job)
        try:
            work.start()
        except RequestError as error:
            return refusal(error, job.name)
        reply = Reply(job.name, job.request.logprobs is not None, job.prompt_tokens)

        def done(status: int) -> None:
            metrics.requests.labels(job.name, status).inc()
            metrics.seconds.labels(job.name).observe(time.perf_counter() - start)

        async def parts() -> AsyncIterator[bytes]:
            status, is_first = _STOPPED_WAITING, True
            try:
                async for index, event in work.events():
                    if is_first:
                        seconds = time.perf_counter() - start
                        metrics.first_seconds.labels(job.name).observe(seconds)
                        is_first = False
                    if isinstance(event, Finished):
                        yield reply.part(index, Piece("", []), event.reason)
                    else:
                        yield reply.part(index, event)
                if job.request.include_usage:
                    yield reply.usage(work.tokens)
                status = 200
                yield END_OF_EVENTS
            except RequestError as error:
                status = error.status
                yield as_event(error.document())
            finally:
                done(status)

        if job.request.stream:
            stream = Stream(parts(), media_type="text/event-stream")
            stream.work = work
            return stream
        try:
            document = await _unless_gone(request, _collect(work, reply))
        except RequestError as error:
            done(error.status)
            return JSONResponse(error.document(), error.status)
        finally:
            work.stop()
        if document is None:
            done(_STOPPED_WAITING)
            return Response(status_code=_STOPPED_WAITING)
        done(200)
        return Response(json.dumps(document), media_type="application/json")

    return app


async def _read_body(request: Any, limits: Limits) -> bytes:
    """Reads a body of JSON up to the limits.

    A type of content is demanded because a foreign page in a browser could send a body
    without it.
    """
    from starlette.requests import ClientDisconnect

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(
            "The header Content-Type must be 'application/json'. Received: "
            f"{kind[:80]!r}."
        )
    body, size = bytearray(), 0
    too_large = RequestError(
        f"The body must be at most {limits.body_bytes} bytes.", 413, code="too_large"
    )
    declared = request.headers.get("content-length", "")
    most = _DISCARDED * limits.body_bytes
    if declared.isdigit() and int(declared[:20]) > most:
        raise too_large
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    break
                if size <= limits.body_bytes:
                    body += part
    except ClientDisconnect as error:
        raise RequestError("The client has left.", _STOPPED_WAITING) from error
    except TimeoutError as error:
        message = f"The body must come within {limits.body_seconds:g} seconds."
        raise RequestError(message, 408, code="too_slow") from error
    if size > limits.body_bytes:
        raise too_large
    return bytes(body)


async def _collect(work: _Work, reply: Reply) -> dict[str, Any]:
    async for index, event in work.events():
        if isinstance(event, Finished):
            work.choices[index].reason = event.reason
    return reply.whole(work.choices, work.tokens)


async def _unless_gone(request: Any, work: Any) -> Any:
    """Awaits an answer; None if the client leaves before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
