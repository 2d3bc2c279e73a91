"""The command `serve` as a process: ports, signals, and a run that is no run."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.cli import main
from spdf_keras.config import Config
from spdf_keras.serving.server import check_packages
from spdf_keras.training.run import Run


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, models: dict[str, Any], table: Any
) -> Path:
    from spdf_keras.training.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("serve") / "dense"
    model = models["dense"]
    made = Run.create(
        folder, Config(model=model.sizes), table.tokenizer, {"kind": "pretrain"}
    )
    save_checkpoint(model, made.checkpoint_folder, 1, keep=1)
    made.finish({})
    return folder


@contextlib.contextmanager
def started(run: Path, port: int = 0) -> Iterator[tuple[Any, int]]:
    command = [sys.executable, "-m", "spdf_keras", "serve", str(run)]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("serving on http://127.0.0.1:"), process.communicate()[1]
        yield process, int(line.rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


def complete(port: int) -> Any:
    body = json.dumps({"prompt": "The", "max_tokens": 3, "temperature": 0})
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        kind = {"Content-Type": "application/json"}
        client.request("POST", "/v1/completions", body, kind)
        return json.loads(client.getresponse().read())


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(package, reason="the server needs the extra `serve`")


def test_a_server_that_was_killed_starts_again_on_its_port(
    run: Path, capsys: Any
) -> None:
    with started(run) as (process, port):
        before = complete(port)
        assert before["model"] == "dense" and before["choices"][0]["text"]
        # A second server on the port is one sentence, before anything is loaded.
        assert main(["serve", str(run), "--port", str(port)]) == 2
        error = capsys.readouterr().err.strip()
        assert f"`--port` must be free. Received: --port {port} of" in error
        assert len(error.splitlines()) == 1
        process.kill()
        process.wait()
    with started(run, port) as (process, again):
        assert again == port
        assert complete(port)["choices"] == before["choices"]
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=60)[1]
        assert process.returncode == 143
        assert "spdf-keras serve: the server has stopped." in error
        assert "Traceback" not in error


def test_bad_input_is_one_sentence(tmp_path: Path, run: Path, capsys: Any) -> None:
    for arguments, sentence in [
        ([str(tmp_path)], "No run in"),
        ([str(run), str(run)], "Every run must have a name of its own."),
        ([str(run), "--slots", "0"], "`--slots` must be at least 1."),
        ([str(run), "--body-bytes", "0"], "`--body-bytes` must be at least 1."),
        ([str(run), "--port", "70000"], "`--port` must be from 0 to 65535."),
        ([str(run), "--host", "192.0.2.1"], "`--host` must be an address of this"),
    ]:
        assert main(["serve", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert sentence in error and len(error.splitlines()) == 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from spdf_keras.errors import InputError
    from spdf_keras.serving import server

    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"package fastapi.*spdf-keras\[serve\]"):
        check_packages()
