import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from spdf_keras.data import streams as module
from spdf_keras.data.corpus import open_text
from spdf_keras.data.streams import DamageError, Stream, read_lines
from spdf_keras.errors import InputError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstd.compress,
}


class Blocks:
    """A stream that gives its bytes in blocks of our own choice."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self.content, self.sizes = content, sizes

    def read(self) -> bytes:
        size = self.sizes.pop() if self.sizes else 3
        block, self.content = self.content[:size], self.content[size:]
        return block


def lines_of(content: bytes, sizes: list[int], *start: int) -> list[tuple[Any, ...]]:
    stream: Any = Blocks(content, list(sizes))
    return [tuple(line) for line in read_lines(stream, *start)]


CONTENT = st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n"])).map(b"".join)


@given(CONTENT, st.lists(st.integers(1, 4)))
def test_lines_are_the_same_however_they_are_read(
    content: bytes, sizes: list[int]
) -> None:
    found, end = lines_of(content, sizes), 0
    expected = []
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        end += len(line)
        expected.append((number, end, line.rstrip(b"\r\n")))
    assert found == expected
    for place, (number, end, _) in enumerate(found):
        assert lines_of(content[end:], sizes, number, end) == expected[place + 1 :]


@given(CONTENT, st.lists(st.integers(1, 4)))
def test_a_line_that_is_too_long_is_told_and_the_others_come(
    content: bytes, sizes: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_LINE_BYTES", 6)
        found = lines_of(content, sizes)
    whole = lines_of(content, sizes)
    assert [line[:2] for line in found] == [line[:2] for line in whole]
    for (_, _, part), (_, _, line) in zip(found, whole, strict=True):
        assert part == line or (part is None and len(line) > 2)
        assert part is not None or len(line) > 6 - 4


@pytest.mark.parametrize("suffix", PACK)
def test_packed_files_are_read_from_any_place(tmp_path: Path, suffix: str) -> None:
    first, second = b"\xef\xbb\xbfone\r\ntwo\r" * 1000, b"three\n\nfour" * 1000
    file = tmp_path / f"a{suffix}"
    file.write_bytes(PACK[suffix](first) + PACK[suffix](second))  # two frames
    with Stream(file) as stream:
        lines = list(read_lines(stream))
        assert stream.file_bytes() == file.stat().st_size
    assert b"\n".join(line.content or b"" for line in lines).startswith(b"one\ntwo\n")
    assert lines[-1].end == len(first + second)
    for line in (lines[0], lines[1234], lines[-1]):
        with Stream(file, line.end) as stream:
            rest = list(read_lines(stream, line.number, line.end))
        assert rest == lines[line.number :]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_whole_lines_before_the_damage_are_kept(tmp_path: Path, suffix: str) -> None:
    text = b"".join(b"line %d\n" % i for i in range(100_000))
    packed = PACK[suffix](text)
    middle = len(packed) // 2
    file = tmp_path / f"a{suffix}"
    for content, sentence in (
        (packed[:middle], "is cut short: its (gzip|zstd) stream has no end"),
        (packed + b"garbage", "has a broken (gzip|zstd) stream"),
    ):
        file.write_bytes(content)
        numbers = []
        with Stream(file) as stream, pytest.raises(DamageError, match=sentence):
            for line in read_lines(stream):
                assert line.content == b"line %d" % (line.number - 1)
                numbers.append(line.number)
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > 20_000
    # gzip notices a changed byte at its end only, by a checksum.
    file.write_bytes(packed[:middle] + bytes(50) + packed[middle + 50 :])
    with Stream(file) as stream, pytest.raises(DamageError, match="has a broken"):
        list(read_lines(stream))


def test_a_text_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    cut, plain, latin = (tmp_path / n for n in ("cut.gz", "plain.gz", "latin.txt"))
    short, empty = tmp_path / "cut.zst", tmp_path / "empty.zst"
    cut.write_bytes(gzip.compress(b"hello" * 1000)[:-9])
    short.write_bytes(zstd.compress(b"hello" * 1000)[:-9])
    empty.touch()
    plain.write_bytes(b"hello")
    latin.write_bytes(b"caf\xe9")
    for path, sentence in (
        (cut, "is cut short"),
        (short, "is cut short"),
        (empty, "is cut short"),
        (plain, "has a broken gzip stream: Not a gzipped file"),
        (latin, "is not UTF-8 text: .* at byte 3"),
        (tmp_path / "none.txt", "Cannot read .*No such file"),
        (tmp_path, "Cannot read .*Is a directory"),
    ):
        with pytest.raises(InputError, match=sentence):
            open_text(path)
    good = tmp_path / "good.txt.zst"
    good.write_bytes(zstd.compress("\ufeffünï\n".encode()))
    assert open_text(good) == "ünï\n"
