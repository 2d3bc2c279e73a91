"""Downloads, from a server on this machine that can do everything wrong."""

import gzip
import hashlib
import json
import shutil
import socket
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.cli import main
from spdf_keras.data.public.collections import COLLECTIONS
from spdf_keras.data.public.download import Source
from spdf_keras.data.public.fetch import fetch, fetch_files
from spdf_keras.data.public.public_file import Collection, PublicFile
from spdf_keras.data.tasks.e2e import read_e2e
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.folders import LOCK
from spdf_keras.locks import lock

CONTENT = bytes(range(256)) * 1000
NAME = "task/file.bin"
# The hidden file of a download; 16 digits of the git blob id are in its name.
UNFINISHED = "task/.file.bin.ed99543dba99b885.unfinished"


def public_file(content: bytes = CONTENT, name: str = NAME) -> PublicFile:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return PublicFile(name, f"https://nowhere.invalid/{name}", len(content), blob)


def fetch_file(file: PublicFile, folder: Path, url: str, **options: Any) -> bool:
    """Fetches one file from a mirror; whether it was not there before."""
    progress = options.pop("progress", lambda *now: None)
    fetched = fetch_files([file], folder, Source(url, **options), progress)
    return fetched[folder / file.name]


class Mirror:
    """A web server.

    Attributes:
        files: Content by path.
        mode: What it does wrong.
        requests: Path and range of every request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {f"/{NAME}": CONTENT}
        self.mode = ""
        self.requests: list[tuple[str, str | None]] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.stop = threading.Event()
        serve = self.server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers["Range"]
        self.requests.append((handler.path, asked))
        content = self.files.get(handler.path)
        if self.mode == "redirect":
            self.mode = ""
            self.head(handler, 302, {"Location": self.target})
        elif content is None or self.mode == "404":
            handler.send_error(404)
        elif self.mode == "silent":
            self.stop.wait(10)
        elif self.mode == "html":
            page = b"<html>Please sign in</html>"
            self.head(handler, 200, {"Content-Type": "text/html; charset=utf-8"}, page)
        elif self.mode == "no http":
            handler.wfile.write(b"220 smtp ready\r\n\r\n")
        else:
            self.send(handler, content, asked)

    target = ""

    def send(
        self, handler: BaseHTTPRequestHandler, content: bytes, asked: str | None
    ) -> None:
        status, headers, start = 200, {"Content-Length": str(len(content))}, 0
        if asked and self.mode != "no range":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return handler.send_error(416)
            status = 206
            shown = start + 1 if self.mode == "other part" else start
            headers["Content-Range"] = f"bytes {shown}-{len(content) - 1}/*"
        body = content[start:]
        headers["Content-Length"] = str(len(body))
        if self.mode in ("cut", "stalls"):
            body = body[:100_000]
        elif self.mode == "cut, no length":
            body = body[:100_000]
            del headers["Content-Length"]
        elif self.mode == "longer, no length":
            body += b"more"
            del headers["Content-Length"]
        self.head(handler, status, headers, body)
        if self.mode == "stalls":
            handler.wfile.flush()
            self.stop.wait(10)

    @staticmethod
    def head(
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes = b"",
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    mirror = Mirror()
    yield mirror
    mirror.stop.set()
    mirror.server.shutdown()
    mirror.server.server_close()


def files_in(folder: Path) -> dict[str, int]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): p.stat().st_size for p in paths}


def test_a_file_is_fetched_once(mirror: Mirror, tmp_path: Path) -> None:
    shown: list[tuple[str, int, int]] = []

    def get() -> bool:
        progress = lambda *now: shown.append(now)  # noqa: E731
        return fetch_file(public_file(), tmp_path, mirror.url + "/", progress=progress)

    assert get() and files_in(tmp_path) == {NAME: len(CONTENT)}
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert shown[0] == (NAME, 0, len(CONTENT))
    assert shown[-1] == (NAME, len(CONTENT), len(CONTENT))
    assert not get() and mirror.requests == [(f"/{NAME}", None)]


def test_an_empty_file_is_a_file(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files[f"/{NAME}"] = b""
    assert fetch_file(public_file(b""), tmp_path, mirror.url)
    assert files_in(tmp_path) == {NAME: 0}


@pytest.mark.parametrize(
    ("mode", "sentence", "left"),
    [
        ("404", "HTTP 404 Not Found", None),
        ("html", "a web page came instead of the file", None),
        ("silent", "no answer for 0.3 seconds", None),
        ("no http", "220 smtp ready", None),
        ("cut", "the transfer was cut after 100000 of 256000 bytes", 100_000),
        ("cut, no length", "the transfer was cut after 100000 of", 100_000),
        ("stalls", "no answer for 0.3 seconds after", 65_536),
        ("longer, no length", "it should be 256000 bytes and more came", None),
    ],
)
def test_a_failure_is_one_sentence_and_nothing_looks_finished(
    mirror: Mirror, tmp_path: Path, mode: str, sentence: str, left: int | None
) -> None:
    mirror.mode = mode
    with pytest.raises(InputError) as caught:
        fetch_file(public_file(), tmp_path, mirror.url, timeout=0.3)
    message = str(caught.value)
    assert message.startswith(f"Cannot fetch '{mirror.url}/{NAME}': {sentence}")
    assert "\n" not in message and message.endswith(".")
    assert files_in(tmp_path) == ({} if left is None else {UNFINISHED: left})
    mirror.mode = ""  # and then it goes on from there
    assert fetch_file(public_file(), tmp_path, mirror.url)
    assert files_in(tmp_path) == {NAME: len(CONTENT)}
    assert mirror.requests[-1][1] == (f"bytes={left}-" if left else None)


def test_a_refused_connection_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(InputError, match="the connection was refused"):
            fetch_file(public_file(), tmp_path, url)
    assert files_in(tmp_path) == {}


def test_a_wrong_length_is_seen_before_anything_is_written(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.files[f"/{NAME}"] = CONTENT + b"x"
    with pytest.raises(InputError, match="should be 256000 bytes and is 256001 there"):
        fetch_file(public_file(), tmp_path, mirror.url)
    assert files_in(tmp_path) == {}


def test_wrong_bytes_of_the_right_length_are_not_kept(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.files[f"/{NAME}"] = CONTENT[::-1]
    with pytest.raises(InputError, match="its checksum is another one"):
        fetch_file(public_file(), tmp_path, mirror.url)
    assert files_in(tmp_path) == {}
    right = public_file()
    other = PublicFile(NAME, right.url, right.size_bytes, right.git_blob, "0" * 64)
    mirror.files[f"/{NAME}"] = CONTENT
    with pytest.raises(InputError, match="its checksum is another one"):
        fetch_file(other, tmp_path, mirror.url)


@pytest.mark.parametrize(
    ("start", "mode", "ranges"),
    [
        (CONTENT[:9], "", ["bytes=9-"]),
        (CONTENT[:9], "no range", ["bytes=9-"]),  # it sends all of it
        (CONTENT, "", []),  # stopped before it was renamed
        (CONTENT + b"x", "", [None]),
        (b"wrong", "", ["bytes=5-", None]),
        (b"x" * len(CONTENT), "", [None]),
    ],
)
def test_whatever_a_stopped_download_left_it_ends_right(
    mirror: Mirror,
    tmp_path: Path,
    start: bytes,
    mode: str,
    ranges: list[str | None],
) -> None:
    mirror.mode = mode
    unfinished = tmp_path / UNFINISHED
    unfinished.parent.mkdir()
    unfinished.write_bytes(start)
    assert fetch_file(public_file(), tmp_path, mirror.url)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert files_in(tmp_path) == {NAME: len(CONTENT)}
    assert [asked for _, asked in mirror.requests] == ranges


def test_a_part_that_was_not_asked_for_is_refused(
    mirror: Mirror, tmp_path: Path
) -> None:
    unfinished = tmp_path / UNFINISHED
    unfinished.parent.mkdir()
    unfinished.write_bytes(CONTENT[:9])
    mirror.mode = "other part"
    with pytest.raises(InputError, match="another part came than was asked for"):
        fetch_file(public_file(), tmp_path, mirror.url)
    assert unfinished.read_bytes() == CONTENT[:9]
    mirror.mode, mirror.files[f"/{NAME}"] = "", CONTENT[:5]  # HTTP 416, then short
    with pytest.raises(InputError, match="should be 256000 bytes and is 5 there"):
        fetch_file(public_file(), tmp_path, mirror.url)


def test_redirects_stay_on_https_or_on_the_mirror(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.files["/elsewhere.bin"] = CONTENT
    port = mirror.server.server_port
    for bad in (f"http://localhost:{port}/elsewhere.bin", "ftp://127.0.0.1/x"):
        mirror.mode, mirror.target = "redirect", bad
        with pytest.raises(InputError, match=f"it sends on to '{bad}', which is not"):
            fetch_file(public_file(), tmp_path, mirror.url)
        assert files_in(tmp_path) == {}
    mirror.mode, mirror.target = "redirect", "/elsewhere.bin"
    assert fetch_file(public_file(), tmp_path, mirror.url)


@pytest.mark.parametrize("url", ["file:///etc", "ftp://127.0.0.1", "http://", ""])
def test_a_base_url_is_of_the_web(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="`base_url` must start with http:// or"):
        fetch_file(public_file(), tmp_path, url)


def test_a_full_disk_is_told_before_and_while_writing(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(9, 0, 9))
        with pytest.raises(InputError, match="256000 bytes are needed in .* 9 are"):
            fetch_file(public_file(), tmp_path, mirror.url)
    assert files_in(tmp_path) == {}
    full = Path("/dev/full")
    if full.exists():
        (tmp_path / "task").mkdir()
        (tmp_path / UNFINISHED).symlink_to(full)
        with pytest.raises(InputError, match="The disk is too full for"):
            fetch_file(public_file(), tmp_path, mirror.url)
    assert files_in(tmp_path) == {}


def test_a_folder_that_cannot_be_is_told(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "task").write_text("a file")
    with pytest.raises(InputError, match=r"Cannot write '.*/task': "):
        fetch_file(public_file(), tmp_path, mirror.url)


def test_a_file_of_the_users_is_not_written_over(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / NAME).write_text("mine")
    with pytest.raises(InputError, match="is not the public file. Move it away"):
        fetch_file(public_file(), tmp_path, mirror.url)
    assert (tmp_path / NAME).read_text() == "mine" and not mirror.requests


def test_a_second_fetch_into_one_folder_is_refused(
    mirror: Mirror, tmp_path: Path
) -> None:
    mine = tmp_path / f"{NAME}.unfinished"  # a file of the user's with such a name
    mine.parent.mkdir()
    mine.write_text("mine")
    with lock(mine.parent / LOCK, "The folder"):
        with pytest.raises(InputError, match="task' is being written by .*process"):
            fetch_file(public_file(), tmp_path, mirror.url)
    assert not mirror.requests
    assert fetch_file(public_file(), tmp_path, mirror.url)
    assert files_in(tmp_path) == {NAME: len(CONTENT), f"{NAME}.unfinished": 4}
    with lock(mine.parent / LOCK, "The folder"):  # nothing is left to write
        assert not fetch_file(public_file(), tmp_path, mirror.url)


def test_the_addresses_are_https_and_the_names_are_the_layout() -> None:
    files = [file for c in COLLECTIONS.values() for file in c.files]
    assert len({file.name for file in files}) == len(files) == 13
    for name, collection in COLLECTIONS.items():
        assert collection.home.startswith("https://") and collection.licence
        assert collection.files or collection.elsewhere
        for file in collection.files:
            assert file.url.startswith("https://")
            assert file.name == f"{name}/{file.url.split('/')[-1]}"
            assert len(file.git_blob) == 40 and file.size_bytes > 0


@pytest.fixture(scope="module")
def public(real_data: Path) -> dict[str, bytes]:
    """The real files, by their path on a mirror."""
    found = {}
    for collection in COLLECTIONS.values():
        for file in collection.files:
            compressed = real_data / f"{file.name}.gz"
            plain = real_data / file.name
            found[f"/{file.name}"] = (
                gzip.decompress(compressed.read_bytes())
                if compressed.is_file()
                else plain.read_bytes()
            )
    return found


def test_the_command_fetches_what_the_tasks_read(
    mirror: Mirror,
    public: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirror.files = public
    out = tmp_path / "data"
    names = [name for name, c in COLLECTIONS.items() if c.files]
    command = ["fetch", *names, "--out", str(out), "--base-url", mirror.url, "--json"]
    assert main(command) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out.splitlines()[-1])
    assert len(result) == 13 and all(result.values())
    assert "not for commercial use" in printed.out
    assert "The training set of DART has no checksum here" in printed.out
    assert "e2e/trainset.csv: 9,340,189 bytes" in printed.err
    assert files_in(out) == {name[1:]: len(data) for name, data in public.items()}
    assert len(read_e2e(out / "e2e" / "devset.csv")) == 547
    assert Tokenizer.load(out / "gpt2_bpe").vocabulary_size == 50257
    assert main(command) == 0  # nothing left to do
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not any(result.values()) and len(mirror.requests) == 13


def test_the_command_says_what_cannot_be_fetched(
    mirror: Mirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = Collection("a test", "CC0", "https://nowhere.invalid", (public_file(),))
    monkeypatch.setitem(COLLECTIONS, "e2e", small)
    rest = ["--out", str(tmp_path / "data"), "--base-url", mirror.url]
    assert main(["fetch", "e2e", "curation", *rest]) == 2
    error = capsys.readouterr().err
    assert "https://github.com/CurationCorp/curation-corpus" in error
    assert error.count("\n") == 1 and not mirror.requests
    mirror.mode = "404"
    assert main(["fetch", "e2e", *rest]) == 2
    error = capsys.readouterr().err
    assert error.startswith("spdf-keras fetch: error: Cannot fetch 'http://127.0.0.1:")
    assert not (tmp_path / "data").exists()
    with pytest.raises(InputError, match="Unknown collection 'x'. Known here: e2e, "):
        fetch("x", tmp_path)
    with pytest.raises(SystemExit):
        main(["fetch", "x", *rest])
