"""Starts a server: first its port, then its runs, then the loop."""

import errno
import socket
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spdf_keras.errors import InputError, StoppedError

if TYPE_CHECKING:
    from spdf_keras.serving.service import Limits, ServedRun
    from spdf_keras.training.run import Run

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
# Seconds in which answers that have begun can end after the server was told to stop.
_GRACE = 5


def check_packages() -> None:
    """Refuses to start without the packages of the extra `serve`."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"A server needs the package {missing[0]}, which is not installed. Install "
            "the extra `serve`: pip install 'spdf-keras[serve]'."
        )


def open_port(host: str, port: int) -> socket.socket:
    """Opens a port; clients that connect wait until the server runs.

    Args:
        host: Name or address of this machine.
        port: 0 chooses a free one.

    Raises:
        InputError: If another program has the port, or the address is not ours.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"`port` must be from 0 to 65535. Received: port={port}.")
    opened = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        opened = socket.socket(family, kind, protocol)
        # Connections of a server that was killed do not keep its port.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(2048)
    except OSError as error:
        if opened is not None:
            opened.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise InputError(
                "`host` must be an address of this machine, such as 127.0.0.1. "
                f"Received: host={host}."
            ) from error
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"`port` must be free. Received: port={port} of {host}, which another "
                "program has. Choose another one; 0 takes any."
            ) from error
        if error.errno == errno.EACCES:
            raise InputError(
                f"`port` must be one that this user may open. Received: port={port}. "
                "Choose one from 1024 on."
            ) from error
        raise
    return opened


def name_runs(arguments: Sequence[str]) -> dict[str, str]:
    """Returns the folder of each run by its name: its own, or that of `NAME=FOLDER`.

    Raises:
        InputError: If two runs have one name.

    Example:
        >>> name_runs(["runs/s75", "base=runs/dense"])
        {'s75': 'runs/s75', 'base': 'runs/dense'}
    """
    runs: dict[str, str] = {}
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        if not equals or Path(argument).exists():
            name, folder = Path(argument).resolve().name, argument
        if not name or name in runs:
            raise InputError(
                f"Every run must have a name of its own. Received: '{name}' for "
                f"'{folder}'{' as well' if name else ''}. Write it as NAME={folder}."
            )
        runs[name] = folder
    return runs


def load_run(name: str, run: "Run", slots: int, queue: int) -> "ServedRun":
    """Loads a run, and runs its model once, so that the first client need not wait.

    Args:
        name: Its name.
        run: The run.
        slots: See `Engine`.
        queue: See `Engine`.
    """
    from spdf_keras.serving.engine import Engine
    from spdf_keras.serving.service import ServedRun
    from spdf_keras.serving.text import TokenTable

    model, config = run.load_model(), run.config()
    engine = Engine(model, TokenTable(run.tokenizer()), slots, queue)
    about = {
        "id": name,
        "object": "model",
        "created": int(run.checkpoint().stat().st_mtime),
        "owned_by": "spdf_keras",
        "max_model_len": engine.context,
        "sparsity": config.sparsity.sparsity,
        "description": describe(model, config.sparsity.sparsity, run.origin()),
    }
    warm_up(engine)
    return ServedRun(engine, about)


def describe(model: Any, sparsity: float, origin: Mapping[str, Any]) -> str:
    """One line about a run, for people."""
    parameters = sum(weight.shape.num_elements() for weight in model.trainable_weights)
    kind = f"{100 * sparsity:.4g} % sparsity" if sparsity else "dense"
    if origin.get("kind") == "finetune":
        kind += " in pre-training, fine-tuned densely"
    return f"{parameters / 1e6:,.1f}M parameters, {kind}"


def warm_up(engine: Any) -> None:
    """Traces the graphs of an engine with a short request."""
    import threading

    from spdf_keras.serving.engine import Failed, Finished, Generation
    from spdf_keras.serving.sampling import Sampler
    from spdf_keras.serving.text import TextStream

    ended = threading.Event()

    def emit(event: Any) -> None:
        if isinstance(event, Finished | Failed):
            ended.set()

    end = engine.table.tokenizer.end_token_id
    engine.submit(
        [
            Generation(
                prompt=[end, end],
                max_tokens=2,
                sampler=Sampler(0, 1, 0, 0, 2),
                stream=TextStream(engine.table),
                emit=emit,
                end_token_ids=frozenset(),
                logprobs=1,
                echo=True,
            )
        ]
    )
    ended.wait()


def run_server(
    runs: Mapping[str, "ServedRun"], opened: socket.socket, limits: "Limits"
) -> None:
    """Serves until a signal; answers that have begun get a few seconds to end.

    Args:
        runs: The runs by name.
        opened: From `open_port`.
        limits: Limits of the bodies.

    Raises:
        StoppedError: After an interrupt or a termination.
    """
    import uvicorn

    from spdf_keras.serving.app import create_app

    received: list[int] = []

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            received.append(sig)
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        create_app(runs, limits),
        log_level="warning",
        access_log=False,
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE,
    )
    try:
        Server(config).run(sockets=[opened])
    except KeyboardInterrupt as error:
        if not received:
            raise
        raise StoppedError("the server has stopped.", received[0]) from error
    finally:
        for run in runs.values():
            run.engine.close()
