"""The Snowball stemmer for English ("Porter 2") in the version of METEOR 1.5.

It equals METEOR's own on the 167,523 words of METEOR's tables. There snowballstemmer
3.1 gives 205 other stems and NLTK 3.10 gives 18.

Reference:
    [The English stemming algorithm](https://snowballstem.org/algorithms/english/stemmer.html);
    later versions have more exceptions.
"""

from functools import cache

VOWELS = frozenset("aeiouy")
_DOUBLES = frozenset("bb dd ff gg mm nn pp rr tt".split())
_BEFORE_LI = frozenset("cdeghkmnrt")
_LONG_PREFIXES = ("gener", "commun", "arsen")

_EXCEPTIONS = {
    "skis": "ski",
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "idly": "idl",
    "gently": "gentl",
    "ugly": "ugli",
    "early": "earli",
    "only": "onli",
    "singly": "singl",
}
_UNCHANGED = frozenset("sky news howe atlas cosmos bias andes".split())
# These words stay unchanged once a plural ending is removed.
_UNCHANGED_LATER = frozenset(
    "inning outing canning herring earring proceed exceed succeed".split()
)

_STEP_2 = {
    "tional": "tion",
    "enci": "ence",
    "anci": "ance",
    "abli": "able",
    "entli": "ent",
    "izer": "ize",
    "ization": "ize",
    "ational": "ate",
    "ation": "ate",
    "ator": "ate",
    "alism": "al",
    "aliti": "al",
    "alli": "al",
    "fulness": "ful",
    "ousli": "ous",
    "ousness": "ous",
    "iveness": "ive",
    "iviti": "ive",
    "biliti": "ble",
    "bli": "ble",
    "ogi": "og",
    "fulli": "ful",
    "lessli": "less",
    "li": "",
}
_STEP_3 = {
    "tional": "tion",
    "ational": "ate",
    "alize": "al",
    "icate": "ic",
    "iciti": "ic",
    "ical": "ic",
    "ful": "",
    "ness": "",
    "ative": "",
}
_STEP_4 = (
    *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"),
    *("ism", "ate", "iti", "ous", "ive", "ize", "ion"),
)


@cache
def stem(word: str) -> str:
    """Removes the endings of a lower-case word.

    Example:
        >>> stem("restaurants"), stem("priced"), stem("friendly")
        ('restaur', 'price', 'friend')
    """
    if word in _EXCEPTIONS:
        return _EXCEPTIONS[word]
    if word in _UNCHANGED or len(word) < 3:
        return word
    word = _mark_consonant_y(word.removeprefix("'"))
    first, second = _regions(word)
    word = _plural(word)
    if word not in _UNCHANGED_LATER:
        word = _past(word, first)
        if len(word) > 2 and word[-1] in "yY" and word[-2] not in VOWELS:
            word = word[:-1] + "i"
        word = _derived(word, first)
        word = _derived_more(word, first, second)
        word = _residue(word, second)
        word = _final(word, first, second)
    return word.replace("Y", "y")


def _mark_consonant_y(word: str) -> str:
    """Replaces a `y` that begins the word or follows a vowel by `Y`."""
    letters = list(word)
    for i, letter in enumerate(letters):
        if letter == "y" and (i == 0 or letters[i - 1] in VOWELS):
            letters[i] = "Y"
    return "".join(letters)


def _regions(word: str) -> tuple[int, int]:
    """Finds the starts of two regions, each behind a vowel and a consonant."""
    prefix = next((p for p in _LONG_PREFIXES if word.startswith(p)), "")
    first = len(prefix) or _behind_syllable(word, 0)
    return first, _behind_syllable(word, first)


def _behind_syllable(word: str, start: int) -> int:
    for i in range(start + 1, len(word)):
        if word[i] not in VOWELS and word[i - 1] in VOWELS:
            return i + 1
    return len(word)


def _has_vowel(part: str) -> bool:
    return any(letter in VOWELS for letter in part)


def _is_short(part: str) -> bool:
    """Whether part of a word ends in a short syllable."""
    if len(part) < 2 or part[-2] not in VOWELS or part[-1] in VOWELS:
        return False
    if len(part) == 2:
        return True
    return part[-1] not in "wxY" and part[-3] not in VOWELS


def _plural(word: str) -> str:
    for ending in ("'s'", "'s", "'"):
        if word.endswith(ending):
            word = word.removesuffix(ending)
            break
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith(("us", "ss")):
        return word
    if word.endswith("s") and _has_vowel(word[:-2]):
        return word[:-1]
    return word


def _past(word: str, first: int) -> str:
    ending = _longest(word, ("eedly", "eed", "ingly", "edly", "ing", "ed"))
    if not ending:
        return word
    part = word.removesuffix(ending)
    if ending in ("eed", "eedly"):
        return part + "ee" if len(part) >= first else word
    if not _has_vowel(part):
        return word
    if part.endswith(("at", "bl", "iz")):
        return part + "e"
    if part[-2:] in _DOUBLES:
        return part[:-1]
    return part + "e" if len(part) == first and _is_short(part) else part


def _derived(word: str, first: int) -> str:
    ending = _longest(word, tuple(_STEP_2))
    part = word.removesuffix(ending)
    if not ending or len(part) < first:
        return word
    if ending == "ogi" and not part.endswith("l"):
        return word
    if ending == "li" and part[-1:] not in _BEFORE_LI:
        return word
    return part + _STEP_2[ending]


def _derived_more(word: str, first: int, second: int) -> str:
    ending = _longest(word, tuple(_STEP_3))
    part = word.removesuffix(ending)
    if not ending or len(part) < (second if ending == "ative" else first):
        return word
    return part + _STEP_3[ending]


def _residue(word: str, second: int) -> str:
    ending = _longest(word, _STEP_4)
    part = word.removesuffix(ending)
    if not ending or len(part) < second:
        return word
    if ending == "ion" and not part.endswith(("s", "t")):
        return word
    return part


def _final(word: str, first: int, second: int) -> str:
    part = word[:-1]
    if word.endswith("e"):
        gone = len(part) >= second or (len(part) >= first and not _is_short(part))
        return part if gone else word
    return part if word.endswith("ll") and len(part) >= second else word


def _longest(word: str, endings: tuple[str, ...]) -> str:
    """Returns the longest of the endings that the word has, or an empty text."""
    if not word.endswith(endings):
        return ""
    return max((e for e in endings if word.endswith(e)), key=len)
