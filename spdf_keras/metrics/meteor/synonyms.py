"""Looks words up in WordNet's sets of synonyms, as METEOR does."""

from functools import cache

from spdf_keras.metrics.archives import read_member
from spdf_keras.metrics.meteor.normalize import ARCHIVE

# Endings in WordNet's order of trial, each with the ending of the base form.
_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
    ("es", "e"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
    ("er", ""),
    ("est", ""),
    ("er", "e"),
    ("est", "e"),
)


@cache
def synonym_sets(word: str) -> frozenset[str]:
    """Names the sets that hold a word or its base form; synonyms share one.

    An irregular word is looked up by all its base forms, any other word by the first
    base form that WordNet has.

    Example:
        >>> bool(synonym_sets("cheap") & synonym_sets("inexpensive"))
        True
    """
    sets, bases = _tables()
    names = sets.get(word, "").split()
    if word in bases:
        for base in bases[word]:
            names += sets.get(base, "").split()
    elif len(word) > 2 and not word.endswith("ss"):
        for ending, replacement in _ENDINGS:
            base = word.removesuffix(ending) + replacement
            if word.endswith(ending) and base in sets:
                names += sets[base].split()
                break
    return frozenset(names)


@cache
def _tables() -> tuple[dict[str, str], dict[str, list[str]]]:
    """Returns the sets of each word, and the base forms of irregular words."""
    lines = read_member(ARCHIVE, "synonym/english.synsets").decode().split("\n")
    sets = dict(zip(lines[::2], lines[1::2], strict=False))
    lines = read_member(ARCHIVE, "synonym/english.exceptions").decode().split("\n")
    bases: dict[str, list[str]] = {}
    for base, forms in zip(lines[::2], lines[1::2], strict=False):
        for form in forms.split():
            bases.setdefault(form, []).append(base)
    return sets, bases
