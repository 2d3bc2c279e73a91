r"""The tokenisation of mteval-v13a, as its Perl and its Python versions do it.

They differ in three points, which matter on odd texts alone: Perl lower-cases
ASCII letters and Python all of Unicode; Perl's white space is Unicode's, to which
Python adds the separators `\x1c` to `\x1f`; and an empty text has no token in
Perl, but one empty token in Python.

Reference:
    mteval-v13a.pl of NIST's OpenMT; pymteval.py of
    [e2e-metrics](https://github.com/tuetschek/e2e-metrics).
"""

import re
from functools import lru_cache

# White space as Perl's `\s` has it in Unicode text.
_PERL_BLANKS = re.compile(
    r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
)
# In bytes, which is how multi-bleu.perl reads a text.
_ASCII_BLANKS = re.compile(r"[\t-\r ]+")

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# ASCII punctuation except apostrophe, comma, hyphen and period.
_SYMBOLS = {
    ord(character): f" {character} " for character in '{|}~[\\]^_`!"#$%&()*+:;<=>?@/'
}
_MARK_AFTER = re.compile(r"([^0-9])([.,])")
_MARK_BEFORE = re.compile(r"([.,])([^0-9])")
_DASH_AFTER = re.compile(r"([0-9])(-)")

_TO_LOWER = {ord(letter): ord(letter.lower()) for letter in map(chr, range(65, 91))}


def lower_ascii(text: str) -> str:
    """Lower-cases A to Z alone.

    Example:
        >>> lower_ascii("CAFÉ")
        'cafÉ'
    """
    return text.translate(_TO_LOWER)


def tokenize_perl(text: str) -> list[str]:
    """Tokenises as mteval-v13a.pl does, and the multi-bleu-detok.perl of Moses.

    The case stays; `lower_ascii` is the script's lower-casing.

    Example:
        >>> tokenize_perl("It's £20-25, or 1.5 km (there).")
        ["It's", '£20', '-', '25', ',', 'or', '1.5', 'km', '(', 'there', ')', '.']
    """
    return [token for token in _PERL_BLANKS.split(_separate(text)) if token]


def tokenize_mteval(text: str) -> list[str]:
    """The lower-case tokens of mteval-v13a.pl."""
    return [lower_ascii(token) for token in tokenize_perl(text)]


def tokenize_python(text: str) -> list[str]:
    """Tokenises as pymteval.py does, then lower-cases.

    Example:
        >>> tokenize_python("CAFÉ."), tokenize_python("")
        (['café', '.'], [''])
    """
    return [token.lower() for token in _separate(text).split()] or [""]


def words_in_bytes(text: str) -> list[str]:
    """Splits at ASCII white space alone, as a Perl script does that reads bytes.

    Example:
        >>> len(words_in_bytes("a b\u00a0c"))
        2
    """
    return [word for word in _ASCII_BLANKS.split(text) if word]


@lru_cache(maxsize=2**14)  # several scores ask for the same texts
def _separate(text: str) -> str:
    text = text.replace("<skipped>", "")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} ".translate(_SYMBOLS)
    text = _MARK_AFTER.sub(r"\1 \2 ", text)
    text = _MARK_BEFORE.sub(r" \1 \2", text)
    return _DASH_AFTER.sub(r"\1 \2 ", text)
