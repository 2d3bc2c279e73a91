r"""The tokenisation of mteval-v13a, as three official programs do it.

The Perl script, its copy in Moses and the Python version differ only on odd texts.
mteval-v13a.pl lower-cases ASCII letters and splits at the white space of Unicode.
multi-bleu-detok.perl reads bytes, so it splits at the white space of ASCII: a no-break
space stays within its word. pymteval.py lower-cases all of Unicode and also splits at
the separators `\x1c` to `\x1f`; it gives an empty text one empty token, Perl none.
sacreBLEU has a single version.

Reference:
    mteval-v13a.pl of NIST's OpenMT; multi-bleu-detok.perl of
    [Moses](https://github.com/moses-smt/mosesdecoder) before it decoded UTF-8, as
    [GenerationEval](https://github.com/WebNLG/GenerationEval) runs it; pymteval.py of
    [e2e-metrics](https://github.com/tuetschek/e2e-metrics).
"""

import re
from functools import lru_cache

# White space as Perl's `\s` has it in Unicode text.
_PERL_BLANKS = re.compile(
    r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
)
# White space as both scripts of Moses have it, which read bytes.
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
    """Lower-cases the letters A to Z only.

    Example:
        >>> lower_ascii("CAFÉ")
        'cafÉ'
    """
    return text.translate(_TO_LOWER)


def tokenize_mteval(text: str) -> list[str]:
    r"""Tokenises as mteval-v13a.pl does, and lower-cases A to Z.

    Example:
        >>> tokenize_mteval("It's £20-25, or\u00a01.5 km (there).")
        ["it's", '£20', '-', '25', ',', 'or', '1.5', 'km', '(', 'there', ')', '.']
    """
    tokens = _PERL_BLANKS.split(_separate(text))
    return [lower_ascii(token) for token in tokens if token]


def tokenize_detok(text: str) -> list[str]:
    r"""Tokenises as multi-bleu-detok.perl does, and keeps the case.

    Example:
        >>> tokenize_detok("It's 1.5\u00a0km, at £20-25.")
        ["It's", '1.5\xa0km', ',', 'at', '£20', '-', '25', '.']
    """
    return words_in_bytes(_separate(text))


def tokenize_python(text: str) -> list[str]:
    """Tokenises as pymteval.py does, then lower-cases.

    Example:
        >>> tokenize_python("CAFÉ."), tokenize_python("")
        (['café', '.'], [''])
    """
    return [token.lower() for token in _separate(text).split()] or [""]


def words_in_bytes(text: str) -> list[str]:
    """Splits at ASCII white space only, as Perl scripts do that read bytes.

    Example:
        >>> len(words_in_bytes("a b\u00a0c"))
        2
    """
    return [word for word in _ASCII_BLANKS.split(text) if word]


@lru_cache(maxsize=2**14)  # several scores tokenise the same texts
def _separate(text: str) -> str:
    text = text.replace("<skipped>", "")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} ".translate(_SYMBOLS)
    text = _MARK_AFTER.sub(r"\1 \2 ", text)
    text = _MARK_BEFORE.sub(r" \1 \2", text)
    return _DASH_AFTER.sub(r"\1 \2 ", text)
