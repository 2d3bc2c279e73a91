"""Cuts texts into the words of GPT-2's tokenizer, in TensorFlow operations.

TensorFlow's regular expressions lack what GPT-2's uses, so the text is cut by comparing
the classes of neighbouring characters. The `tokenizers` library gives the classes, as
two engines may implement two versions of Unicode.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

# Classes of characters; `_EDGE` stands for the place before a text.
_OTHER, _LETTER, _NUMBER, _WHITE_SPACE, _BLANK, _EDGE = range(6)
_PATTERNS = {_LETTER: r"\p{L}+", _NUMBER: r"\p{N}+", _WHITE_SPACE: r"\s+"}
# Only these planes of Unicode have characters of the three patterns, or may get some.
_PLANES = (range(0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE1000))


def word_starts(
    characters: tf.Tensor, rows: tf.Tensor, classes: tf.Tensor
) -> tf.Tensor:
    r"""Where the words of GPT-2's regular expression start.

    The expression is `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+`,
    then `|\s+(?!\S)|\s+`. It means: a word is a run of one class, with a blank before
    it. In white space before a word, the last character stands by itself, unless it is
    such a blank. A contraction starts only where a word would.

    Args:
        characters: Code points of all texts.
        rows: The number of the text of each.
        classes: As from `character_classes`.
    """
    exact = tf.cast(tf.gather(classes, characters), tf.int32)
    is_blank = exact == _BLANK
    is_white = is_blank | (exact == _WHITE_SPACE)
    kinds = tf.where(is_white, _WHITE_SPACE, exact)
    previous_row, next_row = shift(rows, 1, -1), shift(rows, -1, -1)
    is_first, is_last = rows != previous_row, rows != next_row
    previous = tf.where(is_first, _EDGE, shift(kinds, 1, _EDGE))
    after_blank = shift(is_blank, 1, False) & ~is_first
    next_is_white = is_last | shift(is_white, -1, False)
    white_start = (previous != _WHITE_SPACE) | ~next_is_white
    word_start = (kinds != previous) & ~after_blank

    # The two characters after an apostrophe that starts a word.
    quote = (characters == ord("'")) & word_start
    one = tf.where(is_last, 0, shift(characters, -1, 0))
    two = tf.where(rows == shift(rows, -2, -1), shift(characters, -2, 0), 0)
    short, long = tf.zeros_like(quote), tf.zeros_like(quote)
    for letter in "stmd":
        short |= quote & (one == ord(letter))
    for first, second in ("re", "ve", "ll"):
        long |= quote & (one == ord(first)) & (two == ord(second))
    inside = shift(short | long, 1, False) | shift(long, 2, False)
    after = shift(short, 2, False) | shift(long, 3, False)
    word_start = (word_start | after) & ~inside
    is_start = is_first | tf.where(is_white, white_start, word_start)
    return tf.reshape(tf.where(is_start), [-1])


def shift(values: tf.Tensor, by: int, fill: Any) -> tf.Tensor:
    """Moves values to later places (`by` > 0) or to earlier ones."""
    if by > 0:
        return tf.pad(values, [[by, 0]], constant_values=fill)[:-by]
    return tf.pad(values, [[0, -by]], constant_values=fill)[-by:]


@lru_cache(maxsize=1)
def character_classes() -> NDArray[np.uint8]:
    """The class of every code point, read from the `tokenizers` library."""
    from tokenizers import Regex, pre_tokenizers

    codes = np.concatenate([np.array(plane) for plane in _PLANES])
    text = "".join(map(chr, codes))
    classes = np.full(0x110000, _OTHER, np.uint8)
    for kind, pattern in _PATTERNS.items():
        cutter = pre_tokenizers.Split(Regex(pattern), "removed")
        is_of_kind = np.ones(len(codes), bool)
        for _, (start, end) in cutter.pre_tokenize_str(text):
            is_of_kind[start:end] = False
        classes[codes[is_of_kind]] = kind
    classes[ord(" ")] = _BLANK
    return classes
