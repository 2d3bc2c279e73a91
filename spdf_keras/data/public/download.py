"""Downloads one file to a place, and goes on where an earlier attempt was stopped.

pooch does less: version 1.9 starts an interrupted download afresh, follows redirects
to plain http, and checks no git blob ids.
"""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from spdf_keras.data.public.public_file import PublicFile
from spdf_keras.errors import InputError

# Gets a file's name, the bytes that are there, and all its bytes.
Progress = Callable[[str, int, int], None]

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Source:
    """Where files come from.

    Attributes:
        base_url: A mirror that has the files under the same names, instead of their
            own addresses.
        timeout: Seconds that a server may be silent.

    Raises:
        InputError: If `base_url` is no address of the web.
    """

    base_url: str | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.base_url is None:
            return
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            message = "`base_url` must start with http:// or https://."
            raise InputError(f"{message} Received: '{self.base_url}'.")

    @property
    def inside(self) -> str | None:
        """The start of all addresses on the mirror."""
        return None if self.base_url is None else self.base_url.rstrip("/") + "/"

    def url(self, file: PublicFile) -> str:
        """The address of a file."""
        return file.url if self.inside is None else self.inside + file.name


@dataclass(frozen=True)
class Download:
    """A file on its way to a place.

    Attributes:
        file: The file.
        source: Where it comes from.
        path: The place; its folder must exist.
        progress: Gets what has come so far.
    """

    file: PublicFile
    source: Source
    path: Path
    progress: Progress

    @property
    def url(self) -> str:
        """The address that the file comes from."""
        return self.source.url(self.file)

    def run(self) -> bool:
        """Downloads what the place lacks of the file's length.

        Returns:
            Whether bytes of an earlier attempt were used.

        Raises:
            InputError: If the file cannot be downloaded or written.
        """
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
        # A transfer that is compressed on the way would have another length.
        headers = {"Accept-Encoding": "identity", "User-Agent": "spdf-keras"}
        if done:
            headers["Range"] = f"bytes={done}-"
        opener = build_opener(_SafeRedirects(self.source.inside))
        try:
            return opener.open(
                Request(self.url, headers=headers), timeout=self.source.timeout
            )
        except HTTPError as error:
            error.close()
            if error.code == 416 and done:  # the server's file is shorter
                self.path.unlink()
                return self._open(0)
            raise self._failed(f"HTTP {error.code} {error.reason}") from error
        except InputError:  # raised by _SafeRedirects
            raise
        except (OSError, HTTPException, ValueError) as error:
            raise self._failed(_reason(error, self.source.timeout)) from error

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
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            message = f"{needed} bytes are needed in '{self.path.parent}'"
            raise InputError(f"The disk is too full: {message} and {free} are free.")

    def _receive(self, response: Any, done: int) -> None:
        total = self.file.size_bytes
        try:
            with self.path.open("ab" if done else "wb") as target:
                while done <= total:  # equal: one more read shows a byte too many
                    self.progress(self.file.name, done, total)
                    chunk = self._read(response, done)
                    if not chunk:
                        break
                    target.write(chunk)
                    done += len(chunk)
        except OSError as error:
            raise not_written(self.path, error) from error
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
            reason = _reason(error, self.source.timeout)
            reason += f" after {done} of {self.file.size_bytes} bytes"
            raise self._failed(reason, again=True) from error

    def _failed(self, reason: str, again: bool = False) -> InputError:
        message = f"Cannot fetch '{self.url}': {reason}."
        if again:
            message += " Start it again to go on from there."
        return InputError(message)


class _SafeRedirects(HTTPRedirectHandler):
    """Follows redirects to https, and within the mirror that the user named."""

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


def not_written(path: Path, error: OSError) -> InputError:
    """The error of a file or folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"The disk is too full for '{path}'.")
    return InputError(f"Cannot write '{path}': {error.strerror or error}.")


def _reason(error: Exception, timeout: float) -> str:
    """A few words about an error of the network."""
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"no answer for {timeout:g} seconds"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
