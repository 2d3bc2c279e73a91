"""Downloads the public files of the tasks, checked byte for byte.

What a file must be is its length and its git blob id, which `git hash-object`
prints; an address only says where it was last seen. So an address may name a
branch: whatever comes from there, a file is delivered only if its bytes are the
right ones. Nothing is known about an address before it is fetched from.

A download goes to `NAME.unfinished` and is renamed when it is complete and right;
one that was stopped or cut is gone on with.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from spdf_keras.errors import InputError

Progress = Callable[[str, int, int], None]

_TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class PublicFile:
    """One file that is public somewhere.

    Attributes:
        name: Its place under the folder that is fetched to.
        url: Its address.
        size_bytes: Its length.
        git_blob: SHA-1 of `blob LENGTH`, a zero byte, and the content.
        sha256: SHA-256 of the content, where its publisher tells it.
    """

    name: str
    url: str
    size_bytes: int
    git_blob: str
    sha256: str | None = None

    def matches(self, path: Path) -> bool:
        """Whether a file is this one, byte for byte."""
        if path.stat().st_size != self.size_bytes:
            return False
        blob, sha256 = hashlib.sha1(b"blob %d\0" % self.size_bytes), hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                blob.update(chunk)
                sha256.update(chunk)
        if self.sha256 not in (None, sha256.hexdigest()):
            return False
        return blob.hexdigest() == self.git_blob


@dataclass(frozen=True)
class Collection:
    """The files of a task, or what else is trained on.

    Attributes:
        title: Its name, for people.
        licence: What its text may be used under.
        home: Where its authors publish it.
        files: What is fetched.
        elsewhere: Where to get what is not; empty if there is nothing.
    """

    title: str
    licence: str
    home: str
    files: tuple[PublicFile, ...] = ()
    elsewhere: str = ""


def _on_github(
    repository: str, revision: str, path: str, name: str, size: int, git_blob: str
) -> PublicFile:
    url = f"https://raw.githubusercontent.com/{repository}/{revision}/{path}"
    return PublicFile(name, url, size, git_blob)


def _e2e(name: str, size: int, git_blob: str) -> PublicFile:
    return _on_github(
        "tuetschek/e2e-dataset", "master", name, f"e2e/{name}", size, git_blob
    )


def _webnlg(name: str, size: int, git_blob: str) -> PublicFile:
    path = f"examples/NLG/data/webnlg_challenge_2017/{name}"
    return _on_github("microsoft/LoRA", "main", path, f"webnlg/{name}", size, git_blob)


def _dart(name: str, size: int, git_blob: str) -> PublicFile:
    path = f"data/v1.1.1/{name}"
    return _on_github("Yale-LILY/dart", "master", path, f"dart/{name}", size, git_blob)


def _wikitext2(name: str, size: int, git_blob: str) -> PublicFile:
    path, place = f"word_language_model/data/wikitext-2/{name}", f"wikitext2/{name}"
    return _on_github("pytorch/examples", "main", path, place, size, git_blob)


def _gpt2(name: str, size: int, git_blob: str, sha256: str) -> PublicFile:
    url = f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{name}"
    return PublicFile(f"gpt2_bpe/{name}", url, size, git_blob, sha256)


_DART_TRAIN = "dart-v1.1.1-full-train.json"

COLLECTIONS = {
    "e2e": Collection(
        "the E2E NLG challenge",
        "CC BY-SA 4.0",
        "https://github.com/tuetschek/e2e-dataset",
        (
            _e2e("trainset.csv", 9340189, "fa3a5e1124d2aa0d768881e38f8ee73e63d5880d"),
            _e2e("devset.csv", 1161305, "c45950a0771c769d787a33fdf56439cb890005d7"),
            _e2e(
                "testset_w_refs.csv",
                1310822,
                "86733864c96dc18cbaa5f18042356296ef679302",
            ),
        ),
    ),
    "webnlg": Collection(
        "the WebNLG challenge 2017",
        "CC BY-NC-SA 4.0, not for commercial use",
        "https://github.com/microsoft/LoRA",
        (
            _webnlg("train.json", 20771939, "461766d1fe902bd659b821a03f49310c22403686"),
            _webnlg("dev.json", 2596106, "180f096ff49a7e597dd7c507ea0c5441e839b770"),
            _webnlg("test.json", 5610377, "7f552799b7e3b5badf95b725c20d955e0886811e"),
        ),
    ),
    "dart": Collection(
        "DART v1.1.1",
        "MIT",
        "https://github.com/Yale-LILY/dart",
        (
            _dart(
                "dart-v1.1.1-full-dev.json",
                2468789,
                "d11b7982aeafc0761d9805502e4ad7487c557da0",
            ),
            _dart(
                "dart-v1.1.1-full-test.xml",
                3958498,
                "73b526ff793c0c61d22c2b4e6d2f8a0009c39709",
            ),
        ),
        "The training set of DART has no checksum here: get data/v1.1.1/"
        f"{_DART_TRAIN} from https://github.com/Yale-LILY/dart and put it beside the "
        "other files, as dart/" + _DART_TRAIN + ".",
    ),
    "curation": Collection(
        "the Curation Corpus",
        "CC BY 4.0; each article belongs to its publisher",
        "https://github.com/CurationCorp/curation-corpus",
        elsewhere="The Curation Corpus (CC BY 4.0) is published as summaries with "
        "links to the articles: follow https://github.com/CurationCorp/curation-corpus "
        "and put both into one csv file, curation/curation.csv.",
    ),
    "wikitext2": Collection(
        "WikiText-2",
        "CC BY-SA 3.0, text of Wikipedia",
        "https://github.com/pytorch/examples",
        (
            _wikitext2(
                "train.txt", 10797148, "2d84b35af79e411d73ea7cae83c73964c6ac83b4"
            ),
            _wikitext2(
                "valid.txt", 1121681, "eec944eb2d9e46061cd34a6913528797db6842fc"
            ),
            _wikitext2("test.txt", 1256449, "6f3fc88e4cd88456ea892971f9f12243e8428624"),
        ),
    ),
    "gpt2_bpe": Collection(
        "GPT-2's vocabulary",
        "MIT",
        "https://github.com/openai/gpt-2",
        (
            _gpt2(
                "encoder.json",
                1042301,
                "1f1d9aaca301414e7f6c9396df506798ff4eb9a6",
                "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
            ),
            _gpt2(
                "vocab.bpe",
                456318,
                "226b0752cac7789c48f0cb3ec53eda48b7be36cc",
                "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
            ),
        ),
    ),
}


def fetch(
    name: str,
    folder: str | Path,
    base_url: str | None = None,
    progress: Progress = lambda name, done, total: None,
    timeout: float = _TIMEOUT_SECONDS,
) -> dict[Path, bool]:
    """Downloads the files of a collection that are not there yet.

    Args:
        name: A key of `COLLECTIONS`.
        folder: Where the files go, each to its own `PublicFile.name`.
        base_url: A mirror that has the files under the same names, instead of
            their own addresses.
        progress: Gets a file's name, the bytes that are there, and all its bytes.
        timeout: Seconds that a server may be silent.

    Returns:
        For each file, whether it was downloaded; False if it was there.

    Raises:
        InputError: If a file cannot be had, is not the right one, or there is
            none to download; the message is one sentence. No file is changed
            then but `.unfinished` ones.
    """
    if name not in COLLECTIONS:
        known = ", ".join(COLLECTIONS)
        raise InputError(f"Unknown collection '{name}'. Known here: {known}.")
    collection = COLLECTIONS[name]
    if not collection.files:
        raise InputError(collection.elsewhere)
    return {
        Path(folder) / file.name: fetch_file(file, folder, base_url, progress, timeout)
        for file in collection.files
    }


def fetch_file(
    file: PublicFile,
    folder: str | Path,
    base_url: str | None = None,
    progress: Progress = lambda name, done, total: None,
    timeout: float = _TIMEOUT_SECONDS,
) -> bool:
    """Downloads one file, as `fetch` does, unless it is there."""
    target = Path(folder) / file.name
    if target.exists():
        if target.is_file() and file.matches(target):
            progress(file.name, file.size_bytes, file.size_bytes)
            return False
        raise InputError(
            f"'{target}' is there and is not the public file. Move it away to fetch it."
        )
    url = file.url
    if base_url is not None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            message = "`base_url` must start with http:// or https://."
            raise InputError(f"{message} Received: '{base_url}'.")
        base_url = base_url.rstrip("/") + "/"
        url = base_url + file.name
    unfinished = target.with_name(target.name + ".unfinished")
    download = _Download(file, url, base_url, unfinished, progress, timeout)
    was_resumed = download.run()
    if was_resumed and not file.matches(unfinished):  # its beginning may be at fault
        unfinished.unlink()
        download.run()
    if not file.matches(unfinished):
        unfinished.unlink()
        raise InputError(
            f"'{url}' is not the file that it should be: its checksum is another one."
        )
    os.replace(unfinished, target)
    return True


@dataclass(frozen=True)
class _Download:
    """A file on its way from an address to a place."""

    file: PublicFile
    url: str
    base_url: str | None
    path: Path
    progress: Progress
    timeout: float

    def run(self) -> bool:
        """Goes on with what is there, to the full length; says if it was something."""
        is_there = self.path.is_file()
        done = self.path.stat().st_size if is_there else 0
        if is_there and done == self.file.size_bytes:
            return True
        if done > self.file.size_bytes:
            done = 0
        with self._open(done) as response:
            if response.status != 206:  # the server sends it from its beginning
                done = 0
            self._check(response, done)
            self._make_room(self.file.size_bytes - done)
            self._receive(response, done)
        return done > 0

    def _open(self, done: int) -> Any:
        # Compressed on the way, a file would have another length.
        headers = {"Accept-Encoding": "identity", "User-Agent": "spdf-keras"}
        if done:
            headers["Range"] = f"bytes={done}-"
        opener = build_opener(_SafeRedirects(self.base_url))
        try:
            return opener.open(Request(self.url, headers=headers), timeout=self.timeout)
        except HTTPError as error:
            error.close()
            if error.code == 416 and done:  # it is shorter there than what is here
                self.path.unlink()
                return self._open(0)
            raise self._failed(f"HTTP {error.code} {error.reason}") from error
        except InputError:  # of the redirects
            raise
        except (OSError, HTTPException, ValueError) as error:
            raise self._failed(_reason(error, self.timeout)) from error

    def _check(self, response: Any, done: int) -> None:
        """Refuses an answer that cannot be the file, before anything is written."""
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise self._failed("a web page came instead of the file")
        start = f"bytes {done}-"
        if done and not response.headers.get("Content-Range", "").startswith(start):
            raise self._failed("another part came than was asked for")
        length = response.headers.get("Content-Length")
        if length is not None and length != str(self.file.size_bytes - done):
            raise self._failed(
                f"it should be {self.file.size_bytes} bytes and is "
                f"{done + int(length)} there"
            )

    def _make_room(self, needed: int) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise self._not_written(error) from error
        if free < needed:
            message = f"{needed} bytes are needed in '{self.path.parent}'"
            raise InputError(f"The disk is too full: {message} and {free} are free.")

    def _receive(self, response: Any, done: int) -> None:
        total = self.file.size_bytes
        try:
            with self.path.open("ab" if done else "wb") as target:
                while done <= total:  # one byte more would be seen
                    self.progress(self.file.name, done, total)
                    chunk = self._read(response, done)
                    if not chunk:
                        break
                    target.write(chunk)
                    done += len(chunk)
        except OSError as error:
            raise self._not_written(error) from error
        if done > total:
            self.path.unlink()
            raise self._failed(f"it should be {total} bytes and more came")
        if done < total:
            reason = f"the transfer was cut after {done} of {total} bytes"
            raise self._failed(reason, again=True)

    def _read(self, response: Any, done: int) -> bytes:
        try:
            return bytes(response.read(_CHUNK_BYTES))
        except (OSError, HTTPException) as error:
            reason = _reason(error, self.timeout)
            reason += f" after {done} of {self.file.size_bytes} bytes"
            raise self._failed(reason, again=True) from error

    def _failed(self, reason: str, again: bool = False) -> InputError:
        message = f"Cannot fetch '{self.url}': {reason}."
        if again:
            message += " Start it again to go on from there."
        return InputError(message)

    def _not_written(self, error: OSError) -> InputError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return InputError(f"The disk is too full for '{self.path}'.")
        reason = error.strerror or error
        return InputError(f"Cannot write '{self.path}': {reason}.")


class _SafeRedirects(HTTPRedirectHandler):
    """Follows to https, and within the base URL that the user gave."""

    def __init__(self, base_url: str | None) -> None:
        self._base_url = base_url

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> Request | None:
        is_inside = self._base_url and newurl.startswith(self._base_url)
        if urlsplit(newurl).scheme != "https" and not is_inside:
            fp.close()
            raise InputError(
                f"Cannot fetch '{req.full_url}': it sends on to '{newurl}', which is "
                "not https."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _reason(error: Exception, timeout: float) -> str:
    """What went wrong on the network, in some words."""
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"no answer for {timeout:g} seconds"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
