"""METEOR's `-norm`: splits a text into words and separate punctuation."""

import re
from functools import cache
from itertools import pairwise

from spdf_keras.metrics.archives import read_member

ARCHIVE = "meteor/meteor-1.5.jar"

# Its letters are Latin and Cyrillic; others are separated like punctuation.
_ALPHA = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e\u0400-\u0527"
_ALPHA += "\ua640-\ua66e\ua67e-\ua697\u1d00-\u1d7f"
_ALNUM = "0-9" + _ALPHA

# A run of dots stays one word: it has this name while final dots are cut off.
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
# White space at which Java splits words; other white space stays within them.
_BLANKS = re.compile("[ \t\n\r\f]+")
# Characters that Java's `trim` removes.
_CONTROLS = "".join(map(chr, range(33)))


def words_of(text: str) -> list[str]:
    """Splits a text into lower-case words, as METEOR compares them.

    The second half of a contraction becomes a word, dashes within words become
    blanks, and abbreviations lose their inner dots. Results depend on the order of
    the rules.

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
    """Separates the final dot of words, unless it is part of an abbreviation."""
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
    """Returns words that keep a final dot, and whether only in front of a number."""
    only_before_number = {}
    lines = read_member(ARCHIVE, "nonbreaking/english.prefixes").decode().split("\n")
    for line in lines:
        fields = line.split()
        if fields and not fields[0].startswith("#"):
            only_before_number[fields[0]] = fields[1:2] == ["#NUMERIC_ONLY#"]
    return only_before_number
