"""Sets of synonyms from WordNet, as METEOR looks words up in them."""

from functools import cache

from spdf_keras.metrics.archives import read_member
from spdf_keras.metrics.meteor.normalize import ARCHIVE

# WordNet's endings and what the base form has in their place, in order of trial.
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
    """Names the sets that a word or its base form is in; synonyms share one.

    Only one base form is looked up: all those of an irregular word, else the
    first that WordNet has.

    Example:
        >>> bool(synonym_sets("cheap") & synonym_sets("inexpensive"))
        True
    """
    sets, bases = _tables()
    found = sets.get(word, "").split()
    if word in bases:
        for base in bases[word]:
            found += sets.get(base, "").split()
    elif len(word) > 2 and not word.endswith("ss"):
        for ending, replacement in _ENDINGS:
            base = word.removesuffix(ending) + replacement
            if word.endswith(ending) and base in sets:
                found += sets[base].split()
                break
    return frozenset(found)


@cache
def _tables() -> tuple[dict[str, str], dict[str, list[str]]]:
    """Gives the sets of each word, and the base forms of irregular words."""
    lines = read_member(ARCHIVE, "synonym/english.synsets").decode().split("\n")
    sets = dict(zip(lines[::2], lines[1::2], strict=False))
    lines = read_member(ARCHIVE, "synonym/english.exceptions").decode().split("\n")
    bases: dict[str, list[str]] = {}
    for base, forms in zip(lines[::2], lines[1::2], strict=False):
        for form in forms.split():
            bases.setdefault(form, []).append(base)
    return sets, bases
