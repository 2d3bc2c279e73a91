import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from spdf_keras.data.corpus import lines as module
from spdf_keras.data.corpus.forms import open_text
from spdf_keras.data.corpus.lines import read_lines, split_lines
from spdf_keras.data.corpus.streams import DamageError, Stream
from spdf_keras.errors import InputError

from .conftest import COMPRESS


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
    found = lines_of(content, sizes)
    assert [line for _, _, line in found] == in_small_steps(content)
    assert [number for number, _, _ in found] == [*range(1, len(found) + 1)]
    ends = [0, *(end for _, end, _ in found)]
    assert ends[-1] == len(content)
    for start, (_, end, line) in zip(ends, found, strict=False):
        assert content[start:end].rstrip(b"\r\n") == line
    for place, (number, end, _) in enumerate(found):
        assert lines_of(content[end:], sizes, number, end) == found[place + 1 :]


def in_small_steps(content: bytes) -> list[bytes]:
    """The lines by another way: line feeds swallow up to eight `\\r` before them."""
    for count in range(8, 0, -1):
        content = content.replace(b"\r" * count + b"\n", b"\n")
    content = content.replace(b"\r", b"\n")
    return content.removesuffix(b"\n").split(b"\n") if content else []


@given(CONTENT)
def test_texts_have_the_lines_of_streams(content: bytes) -> None:
    text = content.decode()
    assert split_lines(text) == [line.decode() for _, _, line in lines_of(content, [])]
    assert "".join(split_lines(text, keep_ends=True)) == text


# Whatever `str.splitlines` also splits at.
@pytest.mark.parametrize("mark", "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
def test_no_other_character_ends_a_line(mark: str) -> None:
    assert split_lines(f"a{mark}b\n{mark}c") == [f"a{mark}b", f"{mark}c"]
    content = f"a{mark}b\n{mark}c".encode()
    assert [line for _, _, line in lines_of(content, [])] == content.split(b"\n")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\r\r\r\n", "\r"])
def test_a_line_end_is_one_however_it_is_written(end: str) -> None:
    text = f"one{end}two{end}{end}three"
    assert split_lines(text) == ["one", "two", "", "three"]
    assert [line for _, _, line in lines_of(text.encode(), [1])] == [
        *(b"one", b"two", b"", b"three")
    ]


def test_a_million_returns_are_split_in_a_moment() -> None:
    assert len(lines_of(b"\r" * 1_000_000, [600_000] * 2)) == 1_000_000


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


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_are_read_from_any_place(tmp_path: Path, suffix: str) -> None:
    first, second = b"\xef\xbb\xbfone\r\ntwo\r" * 1000, b"three\n\nfour" * 1000
    file = tmp_path / f"a{suffix}"
    file.write_bytes(COMPRESS[suffix](first) + COMPRESS[suffix](second))  # two frames
    with Stream(file) as stream:
        lines = list(read_lines(stream))
        assert stream.file_bytes() == file.stat().st_size
    assert b"\n".join(line.content or b"" for line in lines).startswith(b"one\ntwo\n")
    assert lines[-1].end == len(first + second)
    for line in (lines[0], lines[1234], lines[-1]):
        with Stream(file, line.end) as stream:
            rest = list(read_lines(stream, line.number, line.end))
        assert rest == lines[line.number :]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_whole_lines_before_the_damage_are_kept(tmp_path: Path, suffix: str) -> None:
    text = b"".join(b"line %d\n" % i for i in range(100_000))
    compressed = COMPRESS[suffix](text)
    middle = len(compressed) // 2
    file = tmp_path / f"a{suffix}"
    for content, sentence in (
        (compressed[:middle], "is cut short: its (gzip|xz|zstd) stream has no end"),
        (compressed + b"garbage", "has a broken (gzip|xz|zstd) stream"),
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
    file.write_bytes(compressed[:middle] + bytes(50) + compressed[middle + 50 :])
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


BIG = b"".join(b"line %d\n" % i for i in range(100_000))


def test_a_bzip2_file_that_is_cut_or_followed_by_junk_is_broken(tmp_path: Path) -> None:
    file, compressed = tmp_path / "a.bz2", bz2.compress(BIG)
    for content, least in (
        (compressed[: len(compressed) * 9 // 10], 70_000),
        (compressed, 100_000),
    ):
        junk = b"" if len(content) < len(compressed) else b"junk after its end"
        file.write_bytes(content + junk)
        found = []
        sentence = "broken bzip2 stream" if junk else "cut short: its bzip2 stream has"
        with Stream(file) as stream, pytest.raises(DamageError, match=sentence):
            for line in read_lines(stream):
                found.append(line.content)
        assert found == BIG.splitlines()[: len(found)] and len(found) >= least


@pytest.mark.parametrize("suffix", list(COMPRESS)[1:])
@pytest.mark.parametrize("name", ["a", "a.txt", "a.GZ", "a.Bz2", "a.zstd", "b.XZ"])
def test_compressed_data_is_decompressed_under_any_name(
    tmp_path: Path, suffix: str, name: str
) -> None:
    (tmp_path / name).write_bytes(
        COMPRESS[suffix](b"one\n") + COMPRESS[suffix](b"two\n")
    )
    assert open_text(tmp_path / name) == "one\ntwo\n"


def test_zeros_between_streams_of_xz_lose_nothing(tmp_path: Path) -> None:
    # Python's own file ends at them, without a word.
    file, parts = tmp_path / "a.xz", [lzma.compress(b"%d\n" % i) for i in range(3)]
    file.write_bytes((b"\0" * 4).join(parts) + b"\0" * 2**21)
    assert lzma.open(file).read() == b"0\n"
    assert open_text(file) == "0\n1\n2\n"


def test_zstd_with_a_window_of_two_gigabytes_is_read(tmp_path: Path) -> None:
    parameters = zstd.CompressionParameter
    long: dict[int, int] = {
        parameters.window_log: 31,
        parameters.enable_long_distance_matching: 1,
    }
    compressor = zstd.ZstdCompressor(options=long)
    content = compressor.compress(BIG) + compressor.flush()
    with pytest.raises(zstd.ZstdError, match="too much memory"):
        zstd.decompress(content)
    # The frame that pzstd puts first holds no data.
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    for name in ("a.zst", "a.jsonl"):
        (tmp_path / name).write_bytes(skippable + content)
        assert open_text(tmp_path / name) == BIG.decode()


@pytest.mark.parametrize("suffix", list(COMPRESS)[1:])
def test_an_empty_file_is_no_compressed_one(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").touch()
    with pytest.raises(InputError, match="is cut short"):
        open_text(tmp_path / f"a{suffix}")
    (tmp_path / f"b{suffix}").write_bytes(COMPRESS[suffix](b""))
    assert open_text(tmp_path / f"b{suffix}") == ""
