r"""Words as NLTK 3.5's `word_tokenize` separates them.

The evaluations of LoRA and WebNLG 2020 score these tokens of the Penn Treebank:
contractions are two words, quotes become `` and '', and only the last period of a
sentence is a separate word. NLTK 3.10 splits 36 texts of those evaluations differently,
takes twice as long, and is not needed elsewhere.

Reference:
    [NLTK](https://github.com/nltk/nltk), `nltk.tokenize.word_tokenize`.
"""

import re

from spdf_keras.metrics.tokenizers.sentences import split_sentences

# Each rule applies to the result of the rules before it.
_RULES = [
    # Opening quotes.
    (r"[«“‘„]|`+", r" \g<0> "),
    (r'^"', "``"),
    (r"``", " `` "),
    (r"""([ (\[{<])(?:"|'')""", r"\1 `` "),
    (r"(?i)'(?!re|ve|ll|m|t|s|d)(?=\w\b)", "' "),
    # The last period, before closing quotes and brackets.
    (r"""([^.])\.([\])}>"'»”’ ]*)\s*$""", r"\1 . \2 "),
    # Other punctuation; within a number, colon and comma stay.
    (r"[:,](?=[^\d])", r" \g<0> "),
    (r"[:,]$", r" \g<0> "),
    (r"\.{2,}", r" \g<0> "),
    (r"[;@#$%&?!]", r" \g<0> "),
    (r"([^'])' ", r"\1 ' "),
    (r"[*\]\[(){}<>]", r" \g<0> "),
    (r"--", " -- "),
    (r"^|$", " "),
    # Closing quotes, and endings that start with an apostrophe.
    (r"[»”’]", r" \g<0> "),
    (r'"', " '' "),
    (r"(\S)''", r"\1 '' "),
    (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
    # Single words that are split in two.
    (r"(?i)\b(can)(not)\b", r" \1 \2 "),
    (r"(?i)\b(d)('ye)\b", r" \1 \2 "),
    (r"(?i)\b(gim)(me)\b", r" \1 \2 "),
    (r"(?i)\b(gon)(na)\b", r" \1 \2 "),
    (r"(?i)\b(got)(ta)\b", r" \1 \2 "),
    (r"(?i)\b(lem)(me)\b", r" \1 \2 "),
    (r"(?i)\b(mor)('n)\b", r" \1 \2 "),
    (r"(?i)\b(wan)(na)\s", r" \1 \2 "),
    (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
]
_COMPILED = [(re.compile(pattern), by) for pattern, by in _RULES]


def word_tokenize(text: str) -> str:
    r"""Separates the words of a text by blanks.

    Args:
        text: One line with any number of sentences.

    Raises:
        InputError: If sentences must be split and the model for it is missing.

    Example:
        >>> word_tokenize('It isn\'t "far". The U.S. Navy bar (cheap) is, too.')
        "It is n't `` far '' . The U.S. Navy bar ( cheap ) is , too ."
    """
    words: list[str] = []
    for sentence in split_sentences(text):
        for pattern, by in _COMPILED:
            sentence = pattern.sub(by, sentence)
        words += sentence.split()
    return " ".join(words)
