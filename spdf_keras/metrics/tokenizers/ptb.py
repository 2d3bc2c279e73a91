"""Penn Treebank tokens, as the official E2E script gets them from Java.

The script runs `PTBTokenizer -preserveLines -lowerCase` of Stanford CoreNLP
3.4.1 and then drops punctuation. That tokenizer is a state machine. Its tables are read
from the archive that pycocoevalcap brings, so texts are cut in exactly the same places
without Java. The actions on a match are written here; rules have the machine's numbers.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from spdf_keras.metrics.tokenizers.jflex import read_scanner

ARCHIVE = "tokenizer/stanford-corenlp-3.4.1.jar"
LEXER = "edu/stanford/nlp/process/PTBLexer.class"
# The first state, under the options of the official script.
START = 2

# Tokens that the official script drops. Its list also has -LRB- and other brackets,
# which never match, because tokens are lower-case: brackets stay.
PUNCTUATION = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split())


def ptb_tokenize(text: str) -> str:
    """Tokenises one text: lower-case tokens without punctuation, joined by blanks.

    The result equals a line of `ptb_tokenize_lines` in front of an empty line. A token
    may hold a no-break space ("5 7/8"). Characters that the machine does not know,
    such as most emoji, are dropped.

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
    """Tokenises texts as pycocoevalcap's `PTBTokenizer` does: as lines of one file.

    The lines depend on each other: "at 8.3 m." keeps its last period, unless the
    next line starts with a word like "The". Line breaks within a text count as
    blanks; in the official script, rare ones shift all following lines by one.
    One more difference is known: if a capital sigma ends a word with digits,
    Java may write its other small letter.

    Args:
        texts: All hypotheses, or the references of all items one after another.

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
    # The script first strips all white space off the line, even if part of a token.
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


# The action of each rule: the number of units at the end of the match that are only
# lookahead, and the function that writes the rest. Other rules keep the match.
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
# Rules whose lookahead has no fixed length: the states from which the end of the token
# is found, reading forwards and backwards.
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
_LINE_END = 5  # matches all kinds; only the one between texts counts
_ONE_CHARACTER = 35
# Rules whose match can include a blank at its end.
_TRAILING_BLANKS = frozenset((44, 47))
# Rules of an abbreviation that ends a sentence: its period is also the next token.
_SENTENCE_ENDS = frozenset((33, 47, 49))


def _finish(rule: int, data: bytes, start: int, end: int) -> tuple[str | None, int]:
    """Returns the token of a match, and where the next match starts."""

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
        # A single letter passes its only period on to the next token.
        keeps = not (rule == 47 and end - start == 2)
        return text()[: None if keeps else 1].lower(), end - 1
    lookahead, write = _RULES.get(rule, (0, _unchanged))
    end -= lookahead
    return write(text()).lower(), end
