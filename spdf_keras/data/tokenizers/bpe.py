"""GPT-2's byte-level BPE: load one, train one, encode in bulk, decode."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.errors import InputError
from spdf_keras.parsing import load_json
from spdf_keras.values import as_type, check_integers

END_OF_TEXT = "<|endoftext|>"

# The file names of GPT-2's vocabulary and merges, in three conventions: that of Hugging
# Face, the original one, and that of KerasNLP.
_FILE_NAMES = (
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("vocabulary.json", "merges.txt"),
)


class Tokenizer:
    """A byte-level BPE; it turns any text into token ids and back without loss.

    The end-of-text token is only ever added by the caller: text that happens to
    spell `<|endoftext|>` is encoded as ordinary characters.

    Args:
        vocabulary: Token to id, as in GPT-2's `vocab.json`.
        merges: Pairs to merge, best first, as in the lines of `merges.txt`.

    Raises:
        InputError: If the vocabulary has no `<|endoftext|>`, no token for one of the
            256 bytes, or ids that do not run from 0 to its size, or a merge is not
            of the vocabulary.

    Example:
        >>> tokenizer = Tokenizer.train(["low lower lowest"], 300)
        >>> tokenizer.decode(tokenizer.encode("lower!"))
        'lower!'
    """

    def __init__(
        self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]
    ) -> None:
        import tokenizers

        if END_OF_TEXT not in vocabulary:
            raise InputError(f"The vocabulary must hold the token '{END_OF_TEXT}'.")
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise InputError(
                f"The ids of a vocabulary of {len(vocabulary)} tokens must be "
                f"0 to {len(vocabulary) - 1}, each once."
            )
        self._vocabulary, self._merges = dict(vocabulary), [(a, b) for a, b in merges]
        try:
            model = tokenizers.models.BPE(self._vocabulary, self._merges)
        except Exception as error:  # the Rust side raises a bare Exception
            raise InputError(
                f"The merges do not fit the vocabulary: {error}."
            ) from error
        _check_bytes(vocabulary)
        self._bpe = tokenizers.Tokenizer(model)
        self._bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
            add_prefix_space=False
        )
        self._bpe.decoder = tokenizers.decoders.ByteLevel()
        self.end_token_id = vocabulary[END_OF_TEXT]

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> "Tokenizer":
        """Trains a byte-level BPE; the same texts give the same tokenizer.

        Args:
            texts: The corpus; read once.
            vocabulary_size: Tokens, at most: a small corpus may have fewer
                pairs to merge. At least 257, the bytes and the end-of-text token.
        """
        import tokenizers

        vocabulary_size = as_type("vocabulary_size", int, vocabulary_size)
        check_integers("vocabulary_size", vocabulary_size)
        if vocabulary_size < 257:
            raise InputError(
                "`vocabulary_size` must be at least 257 (256 bytes and the end of "
                f"text). Received: vocabulary_size={vocabulary_size}."
            )
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        byte_level = tokenizers.pre_tokenizers.ByteLevel
        bpe.pre_tokenizer = byte_level(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=[END_OF_TEXT],
            # The trainer keeps this order.
            initial_alphabet=sorted(byte_level.alphabet()),
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        model = json.loads(bpe.to_str())["model"]
        return cls(model["vocab"], model["merges"])

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Reads a vocabulary and its merges.

        The files are `vocab.json` and `merges.txt`, `encoder.json` and `vocab.bpe`, or
        `vocabulary.json` and `merges.txt`.

        Raises:
            InputError: If no such pair is in the folder, or a file is broken.
        """
        for names in _FILE_NAMES:
            vocabulary_file, merges_file = (Path(folder) / name for name in names)
            if vocabulary_file.is_file() and merges_file.is_file():
                return cls._read(vocabulary_file, merges_file)
        expected = " or ".join(" and ".join(names) for names in _FILE_NAMES)
        raise InputError(f"No tokenizer in '{folder}': expected {expected}.")

    @classmethod
    def _read(cls, vocabulary_file: Path, merges_file: Path) -> "Tokenizer":
        try:
            vocabulary = load_json(vocabulary_file.read_text(encoding="utf-8"))
            lines = merges_file.read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError) as error:
            message = (
                f"Cannot read the tokenizer in '{vocabulary_file.parent}': {error}."
            )
            raise InputError(message) from error
        is_table = isinstance(vocabulary, dict)
        if not is_table or not all(type(i) is int for i in vocabulary.values()):
            message = f"'{vocabulary_file}' must be one JSON object of token to id."
            raise InputError(message)
        merges = []
        for number, line in enumerate(lines, 1):
            pair = line.split(" ")
            if (number == 1 and line.startswith("#version")) or not line:
                continue
            if len(pair) != 2:
                raise InputError(
                    f"'{merges_file}', line {number}: a merge must be two tokens "
                    f"with a space between. Received: '{line}'."
                )
            merges.append((pair[0], pair[1]))
        try:
            return cls(vocabulary, merges)
        except InputError as error:
            message = f"The tokenizer in '{vocabulary_file.parent}' cannot be used: "
            raise InputError(f"{message}{error}") from error

    def save(self, folder: str | Path) -> None:
        """Writes `vocab.json` and `merges.txt`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary, merges = (folder / name for name in _FILE_NAMES[0])
        ordered = dict(sorted(self._vocabulary.items(), key=lambda item: item[1]))
        vocabulary.write_text(json.dumps(ordered, ensure_ascii=False), "utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self._merges)]
        merges.write_text("\n".join(lines) + "\n", "utf-8")

    def to_json(self) -> str:
        """Returns the tokenizer as Hugging Face's `tokenizer.json`.

        Text that spells `<|endoftext|>` is that token there, unlike here: prompt
        templates of other runtimes are text.
        """
        import tokenizers

        copy = tokenizers.Tokenizer.from_str(self._bpe.to_str())
        copy.add_special_tokens([END_OF_TEXT])
        return str(copy.to_str())

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self._vocabulary)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token to id, as a copy."""
        return dict(self._vocabulary)

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs to merge, best first, as a copy."""
        return list(self._merges)

    @property
    def fingerprint(self) -> str:
        """A hash of vocabulary and merges, equal for equal tokenizers."""
        content: Any = [sorted(self._vocabulary.items()), self._merges]
        text = json.dumps(content, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Token ids of one text."""
        return list(self._bpe.encode(text).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores."""
        return [encoding.ids for encoding in self._bpe.encode_batch_fast(list(texts))]

    def encode_arrays(
        self, texts: Sequence[str], dtype: np.dtype[Any]
    ) -> list[NDArray[np.integer]]:
        """As `encode_batch`, in arrays; other threads run while it encodes."""
        encodings = self._bpe.encode_batch_fast(list(texts))
        return [np.array(encoding.ids, dtype) for encoding in encodings]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD."""
        return str(self._bpe.decode(list(token_ids), skip_special_tokens=False))


def byte_characters() -> list[str]:
    """The character that stands for each byte in GPT-2's vocabulary."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


def _check_bytes(vocabulary: dict[str, int]) -> None:
    """Refuses a vocabulary that would silently drop bytes of a text."""
    characters = enumerate(byte_characters())
    missing = [byte for byte, character in characters if character not in vocabulary]
    if missing:
        raise InputError(
            "The vocabulary must have a token for each of the 256 bytes, or text would "
            f"lose some. Received: none for {len(missing)} bytes ({_named(missing)}). "
            "Train it with a full alphabet (`initial_alphabet=ByteLevel.alphabet()` of "
            "the library tokenizers), or with `spdf-keras prepare --vocabulary-size`."
        )


def _named(values: list[int]) -> str:
    """The first bytes of a list, as in `0x00, 0x41 'A' and 254 others`."""
    texts = [f"0x{v:02X}" + (f" '{chr(v)}'" if 32 < v < 127 else "") for v in values]
    more = f" and {len(texts) - 8} others" if len(texts) > 8 else ""
    return ", ".join(texts[:8]) + more
