"""A generator of restaurant descriptions, so that a first run needs no data.

It makes both corpora of sparse pre-training and dense fine-tuning: pairs of a
meaning representation (MR) and a reference, in the csv format of the E2E NLG
challenge, and plain text about the same restaurants to pre-train on.

A reference says what its MR says, no more and no less, and repeats each value word
for word (`familyFriendly` in one of `FAMILY_PHRASES`), so a search of a model's output
finds what it leaves out or makes up.

The same seed gives the same text everywhere. Streams are `random.Random`, seeded
with a string (an `int` seed loses its sign) and read only through `random()`, the
one method whose sequence Python promises to keep.

Reference:
    [Novikova et al., 2017](https://arxiv.org/abs/1706.09254), the E2E dataset.
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

from spdf_keras.data.samples.grammar import (
    DETAILS,
    DISHES,
    DOCUMENTS,
    FAMILY_PHRASES,
    JOINS,
    LEADS,
    NUM_ATTRIBUTES,
    NUM_MRS,
    PHRASES,
    SLOTS,
    VALUES,
    WORDS,
)
from spdf_keras.errors import InputError
from spdf_keras.files import replacing

T = TypeVar("T")


class Restaurant(NamedTuple):
    """A meaning representation and the ways in which people might say it."""

    mr: str
    references: tuple[str, ...]


def generate_restaurants(
    count: int, seed: int, num_references: int = 3
) -> list[Restaurant]:
    """Writes distinct meaning representations, each with distinct references.

    A shorter list is the start of a longer one, and fewer references are the first
    of more. There are so many MRs that two seeds share almost none.

    Args:
        count: Number of MRs.
        seed: Seed of the MRs and of their references.
        num_references: References per MR, or fewer where the grammar has no other
            words for it.

    Raises:
        InputError: If `count` is below 1 or above `NUM_MRS`, or `num_references`
            is below 1.

    Example:
        >>> generate_restaurants(1, seed=0)[0].mr.split(", ")[:2]
        ['name[Yarrow Kitchen]', 'eatType[tavern]']
    """
    _require_positive("count", count)
    if count > NUM_MRS:
        raise InputError(
            f"`count` must be at most {NUM_MRS}, the number of different MRs that "
            f"the grammar can write. Received: count={count}"
        )
    _require_positive("num_references", num_references)
    rng = Random(f"restaurants {seed}")
    restaurants: dict[str, Restaurant] = {}
    while len(restaurants) < count:
        values = _draw_values(rng)
        mr = ", ".join(f"{name}[{value}]" for name, value in values.items())
        if mr not in restaurants:
            references = _references(values, Random(f"{mr} {seed}"), num_references)
            restaurants[mr] = Restaurant(mr, references)
    return list(restaurants.values())


def write_csv(restaurants: Iterable[Restaurant], path: str | os.PathLike[str]) -> None:
    """Writes one row per reference, in the dialect of E2E's training set.

    The file appears under its name only when it is complete.
    """
    with replacing(Path(path), newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("mr", "ref"))
        for mr, references in restaurants:
            writer.writerows((mr, reference) for reference in references)


def pretraining_text(num_documents: int, seed: int) -> Iterator[str]:
    """Writes plain documents about the same restaurants, without any MR.

    Guides, reviews, opening hours, dialogues, menus and directions of 60 to 200
    words. Paragraphs, and the turns of a dialogue, are lines, and none is empty: a
    blank line can separate documents. A document depends only on the seed and on its
    position.

    Raises:
        InputError: If `num_documents` is below 1.
    """
    _require_positive("num_documents", num_documents)
    return (_document(Random(f"text {seed} {i}")) for i in range(num_documents))


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"`{name}` must be at least 1. Received: {name}={value}")


def _pick(rng: Random, items: Sequence[T]) -> T:
    return items[int(rng.random() * len(items))]


def _shuffled(rng: Random, items: Iterable[T]) -> list[T]:
    return sorted(items, key=lambda _: rng.random())


def _draw_values(rng: Random) -> dict[str, str]:
    size = _pick(rng, NUM_ATTRIBUTES)
    names = {"name", *_shuffled(rng, list(VALUES)[1:])[: size - 1]}
    return {name: _pick(rng, VALUES[name]) for name in VALUES if name in names}


def _references(values: Mapping[str, str], rng: Random, most: int) -> tuple[str, ...]:
    references: dict[str, None] = {}
    for _ in range(20 * most):
        if len(references) < most:
            references[_reference(values, rng)] = None
    return tuple(references)


def _reference(values: Mapping[str, str], rng: Random) -> str:
    """Says each value once: a sentence with the name, then what is left."""
    left = dict(values)
    sentences: list[str] = []
    while left:
        templates = DETAILS if sentences else LEADS
        template = _pick(rng, [t for t in templates if _fits(t, left)])
        words = {slot: _say(slot, left, rng) for slot in _slots(template)}
        the_kind = f"The {values['eatType']}" if "eatType" in values else "It"
        words["it"] = _pick(rng, ("It", "It", "It", the_kind))
        sentences.append(_tidy(template.format(**words)))
    return " ".join(sentences)


@cache
def _slots(template: str) -> tuple[str, ...]:
    return tuple(slot for slot in re.findall(r"{(\w+)}", template) if slot in SLOTS)


def _fits(template: str, left: Mapping[str, str]) -> bool:
    """Whether each slot has something to say; the eatType must be said first."""
    slots = _slots(template)
    return all(not left.keys().isdisjoint(SLOTS[slot]) for slot in slots) and (
        "eatType" not in left or "place" in slots or "kind" in slots
    )


def _say(slot: str, left: dict[str, str], rng: Random) -> str:
    """Takes the attributes of a slot out of `left` and puts them into words."""
    said = {name: left.pop(name) for name in SLOTS[slot] if name in left}
    if slot in JOINS:
        phrases = [_phrase(name, value, rng) for name, value in said.items()]
        return JOINS[slot].join(_shuffled(rng, phrases))
    if slot == "place":
        said.setdefault("eatType", "place")
    return " ".join(said.values())


def _phrase(name: str, value: str, rng: Random) -> str:
    if name == "familyFriendly":
        return _pick(rng, FAMILY_PHRASES[value])
    return _pick(rng, PHRASES[name]).format(value)


def _tidy(sentence: str) -> str:
    sentence = re.sub(r"\b([Aa]) (?=[AEIOUaeiou])", r"\1n ", sentence)
    return sentence[0].upper() + sentence[1:]


def _document(rng: Random) -> str:
    kind = _pick(rng, list(DOCUMENTS))
    templates = DOCUMENTS[kind].strip().split("\n")
    *body, last = range(len(templates))
    order = [_pick(rng, (0, 1)), _pick(rng, (last - 1, last))]
    order += _shuffled(rng, body[2:-1])
    enough_words = 60 + int(60 * rng.random())
    facts = _facts(rng)
    lines: dict[int, str] = {}
    for position in order:
        if sum(len(line.split()) for line in lines.values()) < enough_words:
            # A guide is about one area, other documents are about one restaurant.
            here = _facts(rng, area=facts["area"]) if kind == "guide" else facts
            lines[position] = _tidy(templates[position].format(**here))
    sentences = [lines[position] for position in sorted(lines)]
    if kind == "dialogue":
        return "\n".join(sentences).replace("|", "\n")
    half = len(sentences) // 2
    return " ".join(sentences[:half]) + "\n" + " ".join(sentences[half:])


def _facts(rng: Random, **known: str) -> dict[str, str]:
    """Draws a restaurant and the other words that a document's template names."""
    values = {name: _pick(rng, VALUES[name]) for name in VALUES} | known
    facts = values | {
        "about": _reference({name: values[name] for name in _draw_values(rng)}, rng),
        "kind": values["eatType"],
        "price": values["priceRange"],
        "rating": values["customer rating"],
        "where": _say("where", dict(values), rng),
        "family": _say("family", dict(values), rng),
    }
    for word, choices in {**WORDS, "dish": DISHES[values["food"]]}.items():
        for i, choice in enumerate(_shuffled(rng, choices), start=1):
            facts[f"{word}{i}"] = choice
    return facts
