"""Triples of subject, relation and object: their text form and their xml."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass

from spdf_keras.data.tasks.score_table import Score
from spdf_keras.errors import InputError

Triple = tuple[str, str, str]

# The columns of the paper's tables of WebNLG and DART.
SCORES = (
    Score("bleu", "BLEU"),
    Score("meteor", "METEOR", decimals=3),
    Score("ter", "TER", higher_is_better=False, decimals=3),
)

_BETWEEN = " | "


@dataclass(frozen=True)
class Entry:
    """One `<entry>` of an xml file, or its equal in JSON.

    Attributes:
        where: File and position, for errors.
        category: The subject of the entry.
        triples: The input.
        texts: A comment (WebNLG: the quality) and a text for each lexicalisation.
            An enriched `<lex>` has its text in `<text>`, beside annotations of it.
    """

    where: str
    category: str
    triples: Sequence[Triple]
    texts: Sequence[tuple[str, str]]


def linearise(triples: Sequence[Triple]) -> str:
    """The context that a model reads; every part is used as it is written.

    Example:
        >>> linearise([("Aarhus", "leaderName", "J. B."), ("Aarhus", "is", "old")])
        'Aarhus : leaderName : J. B. | Aarhus : is : old'
    """
    return _BETWEEN.join(" : ".join(triple) for triple in triples)


def parse_triples(text: str) -> list[Triple]:
    """Reads triples as a person types them, in the notation of the xml files.

    Args:
        text: `subject | relation | object`; further triples after ` || `.

    Raises:
        InputError: If a triple has not three parts.

    Example:
        >>> parse_triples("Aarhus | leaderName | J. B. || Aarhus | is | old")
        [('Aarhus', 'leaderName', 'J. B.'), ('Aarhus', 'is', 'old')]
    """
    triples = []
    for part in text.split("||"):
        values = [value.strip() for value in part.split("|")]
        if len(values) != 3 or not all(values):
            raise InputError(
                "An input must look like `subject | relation | object`, with ` || ` "
                f"between triples. Received: '{part.strip()}'."
            )
        triples.append((values[0], values[1], values[2]))
    return triples


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE: only there can entities be defined that grow."""

    def doctype(self, name: str, pubid: str, system: str) -> None:
        raise InputError("a DOCTYPE is not allowed")


def read_xml(name: str, text: str) -> list[Entry]:
    """Reads the entries of a WebNLG or DART xml file.

    Args:
        name: Names the file in errors.
        text: Its content.

    Raises:
        InputError: If it is not such a file; the message names line or entry.
    """
    parser = ElementTree.XMLParser(target=_WithoutDoctype())
    try:
        parser.feed(text)
        root = parser.close()
    except ElementTree.ParseError as error:
        raise InputError(f"'{name}' is not xml: {error}.") from error
    except InputError as error:
        raise InputError(f"'{name}': {error}.") from error
    _leave_namespace(root)
    if root.tag != "benchmark":
        raise InputError(f"'{name}' must hold <benchmark>. Received: <{root.tag}>.")
    return [
        _entry(element, f"'{name}', entry {number}")
        for number, element in enumerate(root.iter("entry"), 1)
    ]


def _entry(element: ElementTree.Element, where: str) -> Entry:
    sets = element.findall("modifiedtripleset")
    if len(sets) != 1 or not sets[0].findall("mtriple"):
        raise InputError(f"{where}: it must have one <modifiedtripleset> with triples.")
    triples = []
    for triple in sets[0].findall("mtriple"):
        content = _text_of(triple, where)
        values = content.split(_BETWEEN)
        if len(values) != 3:
            raise InputError(
                f"{where}: a triple must be `subject | relation | object`. "
                f"Received: '{content}'."
            )
        triples.append((values[0], values[1], values[2]))
    texts = [
        (lex.get("comment", ""), _lexicalisation(lex, where))
        for lex in element.findall("lex")
    ]
    return Entry(where, element.get("category", ""), triples, texts)


def _lexicalisation(lex: ElementTree.Element, where: str) -> str:
    """The text of a `<lex>`, which is in its `<text>` where the corpus is enriched."""
    texts = lex.findall("text")
    if len(texts) == 1:
        return _text_of(texts[0], where)
    between = [lex.text, *(child.tail for child in lex)]
    if not texts and len(lex) and not any(part and part.strip() for part in between):
        return ""  # annotated, and nobody wrote the text
    return _text_of(lex, where)


def _text_of(element: ElementTree.Element, where: str) -> str:
    if len(element):
        inner = ", ".join(f"<{child.tag}>" for child in element)
        raise InputError(
            f"{where}: <{element.tag}> must hold text alone, or, if it is <lex>, one "
            f"<text>. Received: {inner}."
        )
    return element.text or ""


def _leave_namespace(root: ElementTree.Element) -> None:
    """Takes the namespace of the root from the names of all elements in it."""
    space, closing, _ = root.tag.rpartition("}")
    if closing:
        for element in root.iter():
            element.tag = element.tag.removeprefix(space + closing)
