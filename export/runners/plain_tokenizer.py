"""GPT-2's byte-level BPE in plain Python, for the runners.

It reads the `vocab.json` and `merges.txt` of a run's folder `tokenizer/`, and gives
the ids of `spdf_keras.data.tokenizers.bpe.Tokenizer`. It is fast enough for prompts,
but not for corpora. The library `tokenizers` gives the same ids; a runner that is
copied to another machine should not need it.
"""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


class PlainTokenizer:
    """Encodes and decodes text.

    Args:
        folder: Folder with `vocab.json` and `merges.txt`.

    Raises:
        OSError: If a file is missing.
        ValueError: If a file is broken, or the vocabulary lacks a token that a text
            may need.
    """

    def __init__(self, folder: str | Path) -> None:
        self._ids = _read_vocabulary(Path(folder) / "vocab.json")
        self._ranks = _read_merges(Path(folder) / "merges.txt", self._ids)
        self._characters = _byte_characters()
        missing = [b for b, c in enumerate(self._characters) if c not in self._ids]
        if missing:
            some = ", ".join(f"0x{byte:02X}" for byte in missing[:8])
            more = f" and {len(missing) - 8} others" if len(missing) > 8 else ""
            raise ValueError(
                "the vocabulary must have a token for each of the 256 bytes, or text "
                f"would lose some; it has none for {some}{more}"
            )
        raw = {c: bytes([byte]) for byte, c in enumerate(self._characters)}
        # A token with other characters, such as a special token, stands for itself.
        self._tokens = {
            token_id: b"".join(map(raw.__getitem__, token))
            if raw.keys() >= set(token)
            else token.encode()
            for token, token_id in self._ids.items()
        }
        self.end_token_id = self._ids["<|endoftext|>"]

    def encode(self, text: str) -> list[int]:
        """Encodes a text as token ids."""
        return [
            self._ids[token]
            for word in _words(text)
            for token in self._merged(word.encode())
        ]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decodes token ids to text; bytes that are no UTF-8 become U+FFFD."""
        raw = b"".join(self._tokens.get(token_id, b"") for token_id in token_ids)
        return raw.decode(errors="replace")

    def _merged(self, word: bytes) -> list[str]:
        parts = [self._characters[byte] for byte in word]
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, -1) for pair in pairwise(parts)]
            known = [rank for rank in ranks if rank >= 0]
            if not known:
                break
            best, merged, place = min(known), [], 0
            while place < len(parts):
                if place < len(ranks) and ranks[place] == best:
                    merged.append(parts[place] + parts[place + 1])
                    place += 1
                else:
                    merged.append(parts[place])
                place += 1
            parts = merged
        return parts


def _read_vocabulary(file: Path) -> dict[str, int]:
    ids = json.loads(file.read_text("utf-8"))
    if not isinstance(ids, dict) or "<|endoftext|>" not in ids:
        raise ValueError(f"{file.name} must be a JSON object with '<|endoftext|>'")
    numbers = [i for i in ids.values() if type(i) is int]
    if sorted(numbers) != [*range(len(ids))]:
        raise ValueError(f"the ids in {file.name} must be 0 to {len(ids) - 1}")
    return dict(ids)


def _read_merges(file: Path, ids: dict[str, int]) -> dict[tuple[str, str], int]:
    ranks = {}
    for number, line in enumerate(file.read_text("utf-8").split("\n"), 1):
        if (number == 1 and line.startswith("#version")) or not line:
            continue
        first, _, second = line.partition(" ")
        if not {first, second, first + second} <= ids.keys():
            raise ValueError(
                f"{file.name}, line {number}: '{line}' must be two tokens of the "
                "vocabulary that make a third"
            )
        ranks[first, second] = number
    return ranks


def _byte_characters() -> list[str]:
    """Returns the character that stands for each byte in the vocabulary."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


def _words(text: str) -> Iterator[str]:
    r"""Cuts a text as GPT-2's regular expression does.

    It is `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+`, then
    `\s+(?!\S)|\s+`.
    """
    kinds = [_kind(character) for character in text]
    start = 0
    while start < len(text):
        contractions = [c for c in _CONTRACTIONS if text.startswith(c, start)]
        if contractions:
            end = start + len(contractions[0])
        else:
            # A blank goes with the word behind it.
            next_kind = kinds[start + 1 : start + 2]
            first = start + (text[start] == " " and next_kind not in ([], ["white"]))
            end = first + 1
            while end < len(text) and kinds[end] == kinds[first]:
                end += 1
            # White space leaves its last character to the word behind it.
            if kinds[first] == "white" and end < len(text) and end - start > 1:
                end -= 1
        yield text[start:end]
        start = end


def _kind(character: str) -> str:
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
        return "white"
    category = unicodedata.category(character)[0]
    return {"L": "letter", "N": "number"}.get(category, "other")
