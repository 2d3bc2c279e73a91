"""Public files and collections of them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class PublicFile:
    """One file that is public somewhere.

    Its length and its git blob id, which `git hash-object` prints, determine its bytes;
    the address is only where it was last seen. So an address may name a branch: a file
    with other bytes is refused.

    Attributes:
        name: Its place under the folder that is fetched to.
        url: Its address.
        size_bytes: Its length.
        git_blob: SHA-1 of `blob LENGTH`, a zero byte, and the content.
        sha256: SHA-256 of the content, where its publisher states it.
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
    """The public files of a task, or others that a training needs.

    Attributes:
        title: Its name, for people.
        licence: The licence of its text.
        home: Where its authors publish it.
        files: The files that are fetched.
        elsewhere: Where to get the files that are not fetched; empty if there are
            none.
    """

    title: str
    licence: str
    home: str
    files: tuple[PublicFile, ...] = ()
    elsewhere: str = ""


def on_github(
    repository: str, address: str, folder: str, *files: tuple[str, int, str]
) -> tuple[PublicFile, ...]:
    """Files of one folder of a GitHub repository.

    Args:
        repository: `owner/name`.
        address: Branch and folder there, such as `main/data`.
        folder: Folder that they are fetched to.
        *files: Name, length and git blob id of each.
    """
    base = f"https://raw.githubusercontent.com/{repository}/{address}"
    return tuple(
        PublicFile(f"{folder}/{name}", f"{base}/{name}", size, blob)
        for name, size, blob in files
    )
