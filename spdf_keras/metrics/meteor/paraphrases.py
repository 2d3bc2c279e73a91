"""METEOR's paraphrase table, looked up for the phrases of given texts.

The table has 5.3 million pairs of phrases of up to seven words, in 62 MB of gzip. Only
64-bit hashes of the phrases are kept, because they are only compared: 46 MB, built in a
few seconds and then read from the user's cache folder.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from spdf_keras.errors import InputError
from spdf_keras.metrics.archives import official_file
from spdf_keras.metrics.meteor.cache import cached_array

TABLE = "meteor/data/paraphrase-en.gz"
MAX_WORDS = 7
FORMAT = 1  # version of the array in the cache, and of the hashes

# The hash of a text is a polynomial of its bytes, modulo 2^64. The base is an arbitrary
# odd number under which no two phrases of the table share a hash.
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_BLOCK = 1 << 18  # compressed bytes per read

Hashes = NDArray[np.uint64]
Places = NDArray[np.intp]


@dataclass(frozen=True)
class Phrases:
    """The phrases of one text that are in the table.

    Attributes:
        places: Start, number of words and hash of each; sorted by start, then length.
        starts: By hash, the starts of the phrase from left to right.
        lengths: By hash, the number of words.
    """

    places: list[tuple[int, int, int]] = field(default_factory=list)
    starts: dict[int, list[int]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)


def find_paraphrases(
    texts: Sequence[Sequence[str]],
) -> tuple[list[Phrases], dict[int, dict[int, int]]]:
    """Looks up the phrases of all texts at once.

    Args:
        texts: The words of each text.

    Returns:
        The phrases of each text, and the part of the table with phrases of these
        texts: by hash, the hashes of the paraphrases with their rank.

    Raises:
        InputError: If pycocoevalcap is not installed or its table is damaged.
    """
    lines, starts, words, hashes = _phrases_of(texts)
    known = np.unique(hashes)
    table = _lookup(known)
    used = set(table)
    for paraphrases in table.values():
        used.update(paraphrases)
    chosen = np.isin(hashes, np.fromiter(used, np.uint64, len(used)))
    phrases_of = [Phrases() for _ in texts]
    order = np.lexsort((words[chosen], starts[chosen], lines[chosen]))
    columns = (lines, starts, words, hashes)
    rows = zip(*(c[chosen][order].tolist() for c in columns), strict=True)
    for line, start, length, phrase in rows:
        text = phrases_of[line]
        text.places.append((start, length, phrase))
        text.starts.setdefault(phrase, []).append(start)
        text.lengths[phrase] = length
    return phrases_of, table


def _phrases_of(
    texts: Sequence[Sequence[str]],
) -> tuple[Places, Places, Places, Hashes]:
    """Returns line, first word, number of words and hash of each phrase."""
    data = "".join(" ".join(words) + "\n" for words in texts)
    letters = np.frombuffer(data.encode("utf-8", "surrogatepass"), np.uint8)
    (ends,) = np.nonzero((letters == ord(" ")) | (letters == ord("\n")))
    begins = _after(ends)
    line_of = np.repeat(np.arange(len(texts)), [max(len(t), 1) for t in texts])
    words = ends > begins  # an empty text has an end and no word
    begins, ends, line_of = begins[words], ends[words], line_of[words]
    first, lengths = [], []
    for length in range(1, min(MAX_WORDS, len(ends)) + 1):
        inside = line_of[: len(line_of) - length + 1] == line_of[length - 1 :]
        first.append(np.nonzero(inside)[0])
        lengths.append(np.full(len(first[-1]), length, np.intp))
    if not first:
        nowhere = np.zeros(0, np.intp)
        return nowhere, nowhere, nowhere, nowhere.astype(np.uint64)
    start, count = np.concatenate(first), np.concatenate(lengths)
    hashes = _hash(letters, begins[start], ends[start + count - 1])
    line = line_of[start]
    return line, start - np.searchsorted(line_of, line), count, hashes


def _after(ends: Places) -> Places:
    """Returns the starts of adjacent stretches of bytes, given their ends."""
    return np.concatenate([[0], ends[:-1] + 1])


def _lookup(known: Hashes) -> dict[int, dict[int, int]]:
    """Returns the paraphrases of known phrases that are known phrases too."""
    phrases, bounds, paraphrases = _index()
    at = np.searchsorted(phrases, known)
    at[at == len(phrases)] = 0
    at = at[phrases[at] == known]
    table: dict[int, dict[int, int]] = {}
    for place in at.tolist():
        group = paraphrases[int(bounds[place]) : int(bounds[place + 1])]
        spot = np.searchsorted(known, group)
        spot[spot == len(known)] = 0
        kept = group[known[spot] == group].tolist()
        if kept:
            table[int(phrases[place])] = {phrase: i for i, phrase in enumerate(kept)}
    return table


@cache
def _index() -> tuple[Hashes, Hashes, Hashes]:
    """Returns the sorted phrases, the bounds of their paraphrases, and these."""
    source = official_file(TABLE)
    with source.open("rb") as file:
        # A gzip file ends in its checksum and the length of its content.
        file.seek(max(source.stat().st_size - 8, 0))
        identity = file.read().hex()
    array = cached_array(f"meteor-paraphrases-{FORMAT}-{identity}", _build)
    groups = int(array[0])
    return (
        array[1 : groups + 1],
        array[groups + 1 : 2 * groups + 2],
        array[2 * groups + 2 :],
    )


def _build() -> Hashes:
    """Builds the array that `_index` splits; the number of phrases comes first."""
    keys, paraphrases = _read_table()
    # The table is sorted, so a phrase's entries are neighbours.
    (begins,) = np.nonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    counts = np.diff(begins, append=len(keys))
    order = np.argsort(keys[begins])
    begins, counts = begins[order], counts[order]
    bounds = np.concatenate([[0], np.cumsum(counts)])
    entries = np.repeat(begins - bounds[:-1], counts) + np.arange(len(keys))
    parts = ([len(begins)], keys[begins], bounds, paraphrases[entries])
    return np.concatenate([np.asarray(part, np.uint64) for part in parts])


def _read_table() -> tuple[Hashes, Hashes]:
    """Hashes the table, whose entries have three lines: a number and two phrases."""
    keys: list[Hashes] = []
    paraphrases: list[Hashes] = []
    source = official_file(TABLE)
    unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
    rest, lines = b"", 0
    try:
        with source.open("rb") as file:
            while compressed := file.read(_BLOCK):
                data = rest + unpack.decompress(compressed)
                size = data.rfind(b"\n") + 1
                rest = data[size:]
                if not size:
                    continue
                letters = np.frombuffer(data, np.uint8, size)
                (ends,) = np.nonzero(letters == ord("\n"))
                starts = _after(ends)
                for line, hashes in ((1, keys), (2, paraphrases)):
                    chosen = slice((line - lines) % 3, None, 3)
                    hashes.append(_hash(letters, starts[chosen], ends[chosen]))
                lines += len(ends)
    except (zlib.error, OSError) as error:
        raise InputError(f"The table {source} cannot be read: {error}.") from error
    if not unpack.eof or rest or lines % 3:
        raise InputError(
            f"The table {source} must be whole; install its package again: "
            "pip install --force-reinstall pycocoevalcap==1.2"
        )
    return np.concatenate(keys), np.concatenate(paraphrases)


def _hash(letters: NDArray[np.uint8], starts: Places, ends: Places) -> Hashes:
    """Hashes stretches of bytes, all from one cumulative sum."""
    sums = np.zeros(len(letters) + 1, np.uint64)
    powers, inverse = _powers(_BASE, len(letters)), _powers(_INVERSE, len(letters))
    np.cumsum(letters * powers, out=sums[1:])
    return (sums[ends] - sums[starts]) * inverse[starts]


def _powers(base: int, count: int) -> Hashes:
    # Lengths are rounded up, so that few tables are built; overflow is the modulus.
    known = _power_table(base, 1 << (count - 1).bit_length())
    return known[:count]


@cache
def _power_table(base: int, count: int) -> Hashes:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)
