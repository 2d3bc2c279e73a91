"""METEOR's `-norm`: one text into words, punctuation kept apart."""

import re
from functools import cache
from itertools import pairwise

from spdf_keras.metrics.archives import read_member

ARCHIVE = "meteor/meteor-1.5.jar"

# The letters it knows: Latin and Cyrillic. Others stand alone, like punctuation.
_ALPHA = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e\u0400-\u0527"
_ALPHA += "\ua640-\ua66e\ua67e-\ua697\u1d00-\u1d7f"
_ALNUM = "0-9" + _ALPHA

# A run of dots is kept as one word, hidden under this until dots are cut off.
_DOTS = re.compile(r"\.(\.+)")
_HIDDEN_DOT = "DOTMULTI"

_ALONE = re.compile(rf"([^{_ALNUM} \t\n\x0b\f\r.'`,\-\u2018\u2019])")
_COMMAS = [
    re.compile("([^0-9]),([^0-9])"),
    re.compile("([0-9]),([^0-9])"),
    re.compile("([^0-9]),([0-9])"),
]
_SINGLE_QUOTES = re.compile("[`\u2018\u2019]")
_DOUBLE_QUOTES = re.compile("[\u201c\u201d]|''")
_INNER_DASH = re.compile(rf"([{_ALNUM}.])-([{_ALNUM}])")
_APOSTROPHES = [
    (re.compile(rf"([^{_ALPHA}])'([^{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(rf"([^{_ALPHA}0-9])'([{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(rf"([{_ALPHA}])'([^{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(rf"([{_ALPHA}])'([{_ALPHA}])"), r"\1 '\2"),
    (re.compile("([0-9])'(s)"), r"\1 '\2"),
]
_LETTER = re.compile(f"[{_ALPHA}]")
_SPACES = re.compile("[ \u00a0\u2000-\u200a\u202f\u205f\u3000]+")
# What Java cuts words at; it keeps other white space in them.
_BLANKS = re.compile("[ \t\n\r\f]+")
# What Java's `trim` takes away.
_CONTROLS = "".join(map(chr, range(33)))


def words_of(text: str) -> list[str]:
    """Splits a text into lower-case words, as METEOR compares them.

    Contractions lose their second half to a word of its own, dashes within words
    become blanks, and abbreviations with inner dots lose them. The order of the
    rules is part of what they do.

    Example:
        >>> words_of("It's a co-op of the U.S., No. 5...")
        ['it', "'s", 'a', 'co', 'op', 'of', 'the', 'us', ',', 'no.', '5', '...']
    """
    line = _hide_dots(_ALONE.sub(r" \1 ", f" {text} "))
    if "," in line:
        for pattern in _COMMAS:
            line = pattern.sub(r"\1 , \2", line)
    line = _SINGLE_QUOTES.sub("'", line)
    line = _DOUBLE_QUOTES.sub(' " ', line)
    line = line.replace("\u2013", "-").replace("--", "-")
    if "-" in line:
        line = _INNER_DASH.sub(r"\1 \2", line)
    if "'" in line:
        for pattern, replacement in _APOSTROPHES:
            line = pattern.sub(replacement, line)
    line = " ".join(_cut_dots(_split(line)))
    line = _show_dots(line)
    line = _SPACES.sub(" ", line).strip(_CONTROLS)
    return _split(line.lower())


def _split(line: str) -> list[str]:
    return [word for word in _BLANKS.split(line) if word]


def _hide_dots(line: str) -> str:
    line = _DOTS.sub(rf" {_HIDDEN_DOT}\1", line)
    while _HIDDEN_DOT + "." in line:
        line = re.sub(rf"{_HIDDEN_DOT}\.([^.])", rf"DOT{_HIDDEN_DOT} \1", line)
        line = line.replace(_HIDDEN_DOT + ".", "DOT" + _HIDDEN_DOT)
    return line


def _show_dots(line: str) -> str:
    while "DOT" + _HIDDEN_DOT in line:
        line = line.replace("DOT" + _HIDDEN_DOT, _HIDDEN_DOT + ".")
    return line.replace(_HIDDEN_DOT, ".")


def _cut_dots(words: list[str]) -> list[str]:
    """Cuts the last dot off words, except where it belongs to them."""
    prefixes = _prefixes()
    result = []
    for word, following in pairwise([*words, ""]):
        stem = word[:-1]
        if not stem or not word.endswith("."):
            result.append(word)
        elif "." in stem and _LETTER.search(stem):
            result.append(word.replace(".", ""))
        elif (
            prefixes.get(stem) is False
            or "a" <= following[:1] <= "z"
            or (prefixes.get(stem) and "0" <= following[:1] <= "9")
        ):
            result.append(word)
        else:
            result += [stem, "."]
    return result


@cache
def _prefixes() -> dict[str, bool]:
    """Words that end in a dot, and whether only before a number."""
    found = {}
    lines = read_member(ARCHIVE, "nonbreaking/english.prefixes").decode().split("\n")
    for line in lines:
        fields = line.split()
        if fields and not fields[0].startswith("#"):
            found[fields[0]] = fields[1:2] == ["#NUMERIC_ONLY#"]
    return found
