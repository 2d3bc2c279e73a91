"""Penn Treebank tokens, as the official E2E script has them made by Java.

The script runs `PTBTokenizer -preserveLines -lowerCase` of Stanford CoreNLP
3.4.1 and then drops punctuation. That tokenizer is a state machine, whose tables
are read from the archive that pycocoevalcap brings; so abbreviations, addresses,
dates and rare characters are cut in exactly the same places. Written here is
what is done with a match: the numbers of rules are those of the machine.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from spdf_keras.metrics.tokenizers.jflex import read_scanner

ARCHIVE = "tokenizer/stanford-corenlp-3.4.1.jar"
LEXER = "edu/stanford/nlp/process/PTBLexer.class"
# The state that the options of the official script start in.
START = 2

# Tokens that the official script drops. Tokens come in lower case, so its names
# of brackets (-LRB- and so on) never match: brackets stay.
PUNCTUATION = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split())


def ptb_tokenize(text: str) -> str:
    """Tokenises one text, lower-case, punctuation dropped, joined by blanks.

    Equal to a line of `ptb_tokenize_lines` that an empty one follows. A token may
    hold a no-break space ("5 7/8"). Characters that the machine does not know
    (most emoji) vanish.

    Args:
        text: One hypothesis or reference.

    Raises:
        InputError: If pycocoevalcap is not installed.

    Example:
        >>> ptb_tokenize("It isn't cheap: £20-25 (at Dr. Oz's)!")
        "it is n't cheap # 20-25 -lrb- at dr. oz 's -rrb-"
    """
    return ptb_tokenize_lines([text, ""])[0]


def ptb_tokenize_lines(texts: Sequence[str]) -> list[str]:
    """Tokenises texts as pycocoevalcap's `PTBTokenizer` does: as one file's lines.

    The lines are not independent: "at 8.3 m." keeps its last period, unless the
    next line starts with a word like "The". Line breaks within a text count as
    blanks; the official script has all that follows shifted by a line, if they
    are not plain ones. The one known difference beside: where a capital sigma
    ends a word with digits in it, Java may write its other small letter.

    Args:
        texts: All hypotheses, or the references of all items in turn.

    Raises:
        InputError: If pycocoevalcap is not installed.

    Example:
        >>> ptb_tokenize_lines(["Its length is 8.3 m.", "The end."])
        ['its length is 8.3 m', 'the end']
    """
    joined = "\n".join(text.replace("\n", " ") for text in texts)
    # The machine reads UTF-16.
    data = joined.encode("utf-16-le", "surrogatepass")
    scanner = read_scanner(ARCHIVE, LEXER)
    kinds = scanner.kinds[np.frombuffer(data, "<u2")].tolist()
    lines: list[list[str]] = [[]]
    start = 0
    while start < len(kinds):
        rule, end = scanner.match(kinds, start, START)
        if rule in _LOOKAHEADS:
            end = scanner.cut(kinds, start, end, *_LOOKAHEADS[rule])
        token, end = _finish(rule, data, start, end)
        if token == "\n":
            lines.append([])
        elif token is not None:
            lines[-1].append(token)
        start = end
    return [_without_punctuation(tokens) for tokens in lines[: len(texts)]]


def _without_punctuation(tokens: list[str]) -> str:
    # The official script cuts blanks off the line first, rare ones in tokens too.
    kept = " ".join(tokens).rstrip().split(" ")
    return " ".join(token for token in kept if token not in PUNCTUATION)


def _unchanged(token: str) -> str:
    return token


def _without_soft_hyphens(token: str) -> str:
    return token.replace("\u00ad", "") or "-"


def _without_blanks(token: str) -> str:
    return token.replace(" ", "\u00a0")


def _with_named_parentheses(token: str) -> str:
    return token.replace("(", "-LRB-").replace(")", "-RRB-")


def _as_ampersand(token: str) -> str:
    return re.sub("&amp;", "&", token, flags=re.IGNORECASE | re.ASCII)


def _as_currency(token: str) -> str:
    token = token.replace("\u00a2", "cents").replace("\u00a3", "#")
    return re.sub("[\u0080\u00a4\u20a0\u20ac]", "$", token)


_SPELLED_FRACTIONS = {
    0xBC: "1/4",
    0xBD: "1/2",
    0xBE: "3/4",
    0x2153: "1/3",
    0x2154: "2/3",
}


def _as_fraction(token: str) -> str:
    return token.translate(_SPELLED_FRACTIONS)


def _as_dashes(token: str) -> str:
    return "--" if 3 <= len(token) <= 4 else token


def _as_quotes(token: str, single: str) -> str:
    token = re.sub("&apos;|'", single, token)
    token = re.sub('"|&quot;', 2 * single, token)
    for signs, quotes in (
        ("\u0091\u2018\u201b\u2039", "`"),
        ("\u0092\u2019\u203a", "'"),
        ("\u0093\u201c\u00ab", "``"),
        ("\u0094\u201d\u00bb", "''"),
    ):
        token = re.sub(f"[{signs}]", quotes, token)
    return token


def _as_left_quotes(token: str) -> str:
    return _as_quotes(token, "`")


def _as_right_quotes(token: str) -> str:
    return _as_quotes(token, "'")


# What to do with a match, by rule: how many units at its end were only looked at,
# and how the rest is written. A rule not named here has its match as the token.
_RULES: dict[int, tuple[int, Callable[[str], str]]] = {
    2: (0, lambda token: "<"),
    4: (0, _as_dashes),  # a row of hyphens
    6: (0, _without_soft_hyphens),  # most words
    8: (0, _as_right_quotes),
    10: (0, lambda token: ">"),
    11: (0, lambda token: "--"),
    12: (0, _without_soft_hyphens),  # numbers
    13: (0, lambda token: "..."),
    14: (0, _as_fraction),
    15: (0, _as_currency),
    16: (0, lambda token: "-RCB-"),
    17: (0, lambda token: "-LRB-"),
    18: (0, lambda token: "-RRB-"),
    20: (0, lambda token: "-LCB-"),
    21: (0, lambda token: "-RSB-"),
    22: (0, lambda token: "-LSB-"),
    25: (1, _unchanged),  # an abbreviation without its period, before a blank
    26: (1, _as_left_quotes),  # a double quote before a word
    27: (0, _without_blanks),  # a tag
    28: (0, _with_named_parentheses),  # a smiley
    29: (0, _without_soft_hyphens),  # "20-25"
    30: (0, _without_soft_hyphens),  # "it" in "it's"
    32: (1, _without_soft_hyphens),  # "U.S." before a comma
    34: (1, _with_named_parentheses),  # ":-)"
    35: (0, _as_left_quotes),  # an apostrophe before a word
    36: (1, _as_right_quotes),  # "'s", "n't"
    37: (0, _as_ampersand),  # "AT&amp;T"
    38: (0, _without_blanks),
    39: (0, _without_blanks),  # "5 7/8"
    40: (0, _without_soft_hyphens),  # "ca" in "can't"
    42: (2, _unchanged),  # "gon" in "gonna"
    46: (1, _without_soft_hyphens),  # "20-25." before a comma
    48: (2, _unchanged),  # "Inc." before a number
    50: (3, _unchanged),  # "can" in "cannot"
    51: (1, _as_ampersand),  # "A&B." before a semicolon
    53: (4, _unchanged),  # "Co." before " Ltd"
    54: (0, lambda token: _with_named_parentheses(_without_blanks(token))),  # phones
}
# Rules whose match includes what has to follow, of any length: the states to find
# the end of the token with, read forwards and backwards.
_LOOKAHEADS = {
    24: (13, 14),
    30: (3, 4),
    40: (5, 6),
    41: (16, 17),
    43: (15, 14),
    44: (9, 10),
    47: (7, 8),
    49: (11, 12),
}
_DROPPED = frozenset((1, 7, 23))  # unknown characters, blanks, the delete character
_LINE_END = 5  # of any kind; only that between texts counts
_ONE_CHARACTER = 35
# Before blanks the machine can take one of them along.
_TRAILING_BLANKS = frozenset((44, 47))
# An abbreviation that ends a sentence has its period and leaves another behind.
_SENTENCE_ENDS = frozenset((33, 47, 49))


def _finish(rule: int, data: bytes, start: int, end: int) -> tuple[str | None, int]:
    """Writes the token of a match; also says where the next one starts."""

    def text() -> str:
        return data[2 * start : 2 * end].decode("utf-16-le", "surrogatepass")

    if rule in _DROPPED:
        return None, end
    if rule == _LINE_END:
        return ("\n" if text().endswith("\n") else None), end
    if rule == _ONE_CHARACTER:
        end = start + 1
    if rule in _TRAILING_BLANKS:
        end = start + len(text().rstrip(" \t\n\x0b\x0c\r\x85"))
    if rule in _SENTENCE_ENDS:
        # A single letter leaves its only period.
        keeps = not (rule == 47 and end - start == 2)
        return text()[: None if keeps else 1].lower(), end - 1
    unread, write = _RULES.get(rule, (0, _unchanged))
    end -= unread
    return write(text()).lower(), end
