"""A small grammar that writes restaurant descriptions, so a first run needs no data.

It makes both corpora of sparse pre-training and dense fine-tuning: pairs of a
meaning representation (MR) and a reference, in the csv format of the E2E NLG
challenge, and plain text about the same restaurants to pre-train on. Names, places
and sentences are this project's own; only the attributes and the format are E2E's.

A reference says what its MR says, no more and no less, and repeats each value word
for word (`familyFriendly` in one of `FAMILY_PHRASES`), so what a model leaves out
or makes up can be found by searching its output.

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
from math import prod
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

from spdf_keras.errors import InputError
from spdf_keras.files import replacing

T = TypeVar("T")

_FIRST = "Amber Copper Crooked Hidden Ivory Merry Painted Silver Sleepy Velvet".split()
_LAST = "Badger Barrel Compass Fiddle Heron Kettle Orchard Pelican Teapot Wheel".split()
_OWNERS = "Bramley Hollis Quill Sorrel Tansy Yarrow".split()
_ROOMS = "Cellar Kitchen Larder Table".split()
_DISHES = {
    "Ethiopian": ("lentil stew", "sour flatbread", "chickpea curry"),
    "Georgian": ("cheese bread", "aubergine roll", "plum soup"),
    "Greek": ("spinach pie", "grilled octopus", "honey cake"),
    "Hungarian": ("paprika soup", "cherry strudel", "potato bake"),
    "Icelandic": ("smoked lamb", "rye bread", "fish stew"),
    "Lebanese": ("parsley salad", "roast pepper dip", "pistachio cake"),
    "Moroccan": ("lamb tagine", "almond pastry", "vegetable couscous"),
    "Peruvian": ("lime fish salad", "potato cake", "corn pudding"),
    "Portuguese": ("salt cod pie", "custard tart", "clam rice"),
    "Vietnamese": ("beef noodle soup", "rice paper roll", "lemongrass chicken"),
}
# In E2E's order. But for yes and no, a value is part of no other value and of no
# template for references: where it is found, it was said on purpose.
VALUES: dict[str, Sequence[str]] = {
    "name": [f"The {first} {last}" for first in _FIRST for last in _LAST]
    + [f"{owner} {room}" for owner in _OWNERS for room in _ROOMS],
    "eatType": ("alehouse", "bistro", "canteen", "diner", "tavern", "tea room"),
    "food": tuple(_DISHES),
    "priceRange": ("cheap", "fair", "moderate", "high"),
    "customer rating": ("one star", "two stars", "three stars", "four stars"),
    "area": ("harbour district", "market quarter", "old town", "west end"),
    "familyFriendly": ("yes", "no"),
    "near": (
        *("Anchor Square", "Candle Cinema", "Ferry Museum", "Foxglove Garden"),
        *("Harper Library", "Kestrel Tower", "Lantern Bridge", "Miller Hall"),
        *("Rowan Station", "Swan Lock", "Tidewater Lighthouse", "Willow Park"),
    ),
}
FAMILY_PHRASES = {
    "yes": ("is family-friendly", "is good for families", "welcomes children"),
    "no": ("is not family-friendly", "is for adults only", "does not admit children"),
}
# An MR has a name and at least two more; in E2E, too, few have 3 or all 8.
_NUM_ATTRIBUTES = (3, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 8)
_SIZES = [len(VALUES[attribute]) for attribute in VALUES if attribute != "name"]
NUM_MRS = len(VALUES["name"]) * (prod(n + 1 for n in _SIZES) - sum(_SIZES) - 1)

# What a slot of a template says: those of its attributes that are still unsaid, at
# least one. The slots of `_JOINS` say them as phrases, the others word for word.
_SLOTS = {
    "name": ("name",),
    "place": ("food", "eatType"),
    "food": ("food",),
    "kind": ("eatType",),
    "where": ("area", "near"),
    "features": ("priceRange", "customer rating"),
    "price": ("priceRange",),
    "rating": ("customer rating",),
    "family": ("familyFriendly",),
}
_JOINS = {"where": " ", "features": " and ", "family": ""}
_PHRASES = {
    "area": ("in the {}",),
    "near": ("near {}", "close to {}"),
    "priceRange": ("{} prices", "a {} price range"),
    "customer rating": ("a customer rating of {}", "{} from its customers"),
}
# Templates write every article as "a"; `_tidy` makes it "an" where it must be.
_LEADS = (
    "{name} is a {place}.",
    "{name} is a {place} {where}.",
    "{name} is a {place} with {features}.",
    "{name} is a {place} {where} with {features}.",
    "{name} is a {place} that {family}.",
    "{name} is a {kind} that serves {food} food.",
    "{name}, a {place} {where}, has {features}.",
    "{name}, a {place} with {features}, {family}.",
    "{name} serves {food} food {where}.",
    "{name} is {where}.",
    "{name} is {where} and has {features}.",
    "{name} is {where} and {family}.",
    "{name} has {features}.",
    "There is a {place} called {name} {where}.",
    "There is a {place} called {name} with {features}.",
    "{where}, there is a {place} called {name}.",
    "{where}, {name} is a {place} with {features}.",
    "You can find {name}, a {place}, {where}.",
    "For {food} food, try {name}, a {kind} {where}.",
    "With {features}, {name} is a {place} {where}.",
)
_DETAILS = (
    "{it} serves {food} food.",
    "{it} is {where}.",
    "You can find it {where}.",
    "{it} has {features}.",
    "Its price range is {price}.",
    "Its customer rating is {rating}.",
    "{it} {family}.",
    "{it} serves {food} food and has {features}.",
    "{it} is {where} and has {features}.",
    "{it} is {where} and {family}.",
    "{it} has {features}, and it {family}.",
    "{it} {family} and has {features}.",
)

# A document draws from these: `person1` and `person2` are two different people.
_WORDS = {
    "person": "Ada Bruno Clara Dmitri Elena Farid Greta Hugo Ines Jonas".split(),
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "street": ("Baker Lane", "Harp Street", "King Row", "Mint Street", "Rope Walk"),
    "drink": ("apple juice", "black tea", "cold beer", "mint tea", "red wine"),
    "opening": ("eight in the morning", "ten in the morning", "noon"),
    "closing": ("nine in the evening", "half past ten", "midnight"),
    "number": "three four five six seven eight nine ten twelve fifteen".split(),
}
# The first two lines are openings, the last two endings: a document has one of each
# and, between them, some of the others in their order. A "|" starts a new line.
_DOCUMENTS = {
    "guide": """
The {area} is a good part of town for a slow walk and a long lunch.
Most visitors to this side of town come for {near} and stay for the food.
{about}
If you walk past {near}, stop at {name} and ask for the {dish1}.
{about}
People who like {food} cooking should look for {name} on {street1}.
{name} was a lamp shop until {person1} turned it into a {kind}.
{about}
The queue outside {name} is long on {day1}, but it moves quickly.
Visitors often miss {name}, because its door is behind {near}.
Wherever you go, book a table before {day1}.
All of these places are a short walk from each other.
""",
    "review": """
I walked past {name} for {number1} years before I went in with {person1}.
{person1} told me to try {name}, so last {day1} we went together.
{about}
The room was full, so we waited {number2} minutes for a table near the window.
I ordered the {dish1}, and {person1} chose the {dish2}.
The {dish1} was fresh, generous and full of flavour.
The {dish2} came late, but the waiter brought us free {drink1}.
{person1} said it was the best {food} food in the {area}.
The bill was no surprise, because we expected {price} prices.
{name} has a customer rating of {rating}, and now I know why.
I would go again just for the {dish1}.
Next time I want to try the {dish3} with a glass of {drink1}.
""",
    "hours": """
{name} opens at {opening1} and closes at {closing1}.
The doors of {name} open at {opening1} every day except {day2}.
{about}
On {day1} the kitchen starts one hour later than on other days.
The last orders are taken thirty minutes before closing time.
The {dish1} is made early, and it is often gone before two o'clock.
Dogs are allowed on the terrace but not in the dining room.
On {day1} there is live music, and {person1} plays the piano.
After six in the evening you can park for free behind {near}.
The number {number1} bus goes from {near} to the door.
For holidays, look at the note on the door.
The {kind} is closed for one week in January.
""",
    "dialogue": """
{person1}: Where shall we eat on {day1}?|{person2}: What about {name}?
{person1}: I would like {food} food.|{person2}: Then let us go to {name}.
{person1}: Is it far from here?|{person2}: No, it is {where}.
{person1}: Please tell me more about it.|{person2}: {about}
{person1}: Is it expensive?|{person2}: You can expect {price} prices.
{person1}: What do other people say?|{person2}: Most people give it {rating}.
{person1}: Can the children come?|{person2}: I know that it {family}.
{person1}: What should I order?|{person2}: The {dish1} is very good there.
{person1}: What do they have to drink?|{person2}: They make good {drink1}.
{person1}: When does it close?|{person2}: It closes at {closing1}.
{person1}: Then I will meet you at {near}.|{person2}: See you there.
{person1}: Good, I will call {name}.|{person2}: Ask for the window table.
""",
    "menu": """
The menu of {name} is short, and {person1} writes it by hand every {day1}.
The {food} kitchen of {name} is small, but its menu is long.
{about}
The cook, {person2}, learned to make {food} food from a old neighbour.
There is a soup of the day and a small plate of cheese.
The {dish1} comes to the table on a large blue plate.
Everything in the {dish1} comes from the market, down to the salt.
A glass of {drink1} goes well with the {dish1}.
The {dish2} takes a while to make, but it is worth the wait.
The recipe for the {dish3} has been a secret for {number1} years.
Guests who do not eat meat can choose from {number2} dishes.
Two people can share the {dish2}, because the portions are large.
The menu hangs on the door, so you can read it before you go in.
""",
    "directions": """
To walk to {name}, leave {near} by the main gate.
It is easy to find {name} if you start at {near}.
Go along {street1} for {number1} minutes, until you see a red letter box.
Wait at the crossing, because the traffic is heavy on {day1}.
Turn left at the flower shop, and then take the second street.
Go past the bakery with the blue door and the school behind it.
Cross the small bridge and keep the river on your left.
Turn right after the post office, where the road goes up the hill.
If you see the town hall, you have gone too far and must turn back.
The {kind} is on the corner, under a green sign. {about}
You will smell the {dish1} before you see the door. {about}
""",
}


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
    blank line can part documents. A document depends on the seed and on its
    position only.

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
    size = _pick(rng, _NUM_ATTRIBUTES)
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
        templates = _DETAILS if sentences else _LEADS
        template = _pick(rng, [t for t in templates if _fits(t, left)])
        words = {slot: _say(slot, left, rng) for slot in _slots(template)}
        the_kind = f"The {values['eatType']}" if "eatType" in values else "It"
        words["it"] = _pick(rng, ("It", "It", "It", the_kind))
        sentences.append(_tidy(template.format(**words)))
    return " ".join(sentences)


@cache
def _slots(template: str) -> tuple[str, ...]:
    return tuple(slot for slot in re.findall(r"{(\w+)}", template) if slot in _SLOTS)


def _fits(template: str, left: Mapping[str, str]) -> bool:
    """Whether each slot has something to say; what the thing is comes first."""
    slots = _slots(template)
    return all(not left.keys().isdisjoint(_SLOTS[slot]) for slot in slots) and (
        "eatType" not in left or "place" in slots or "kind" in slots
    )


def _say(slot: str, left: dict[str, str], rng: Random) -> str:
    """Takes the attributes of a slot out of `left` and puts them into words."""
    said = {name: left.pop(name) for name in _SLOTS[slot] if name in left}
    if slot in _JOINS:
        phrases = [_phrase(name, value, rng) for name, value in said.items()]
        return _JOINS[slot].join(_shuffled(rng, phrases))
    if slot == "place":
        said.setdefault("eatType", "place")
    return " ".join(said.values())


def _phrase(name: str, value: str, rng: Random) -> str:
    if name == "familyFriendly":
        return _pick(rng, FAMILY_PHRASES[value])
    return _pick(rng, _PHRASES[name]).format(value)


def _tidy(sentence: str) -> str:
    sentence = re.sub(r"\b([Aa]) (?=[AEIOUaeiou])", r"\1n ", sentence)
    return sentence[0].upper() + sentence[1:]


def _document(rng: Random) -> str:
    kind = _pick(rng, list(_DOCUMENTS))
    templates = _DOCUMENTS[kind].strip().split("\n")
    *body, last = range(len(templates))
    order = [_pick(rng, (0, 1)), _pick(rng, (last - 1, last))]
    order += _shuffled(rng, body[2:-1])
    enough_words = 60 + int(60 * rng.random())
    facts = _facts(rng)
    lines: dict[int, str] = {}
    for position in order:
        if sum(len(line.split()) for line in lines.values()) < enough_words:
            # A guide is about one area, the others are about one restaurant.
            here = _facts(rng, area=facts["area"]) if kind == "guide" else facts
            lines[position] = _tidy(templates[position].format(**here))
    sentences = [lines[position] for position in sorted(lines)]
    if kind == "dialogue":
        return "\n".join(sentences).replace("|", "\n")
    half = len(sentences) // 2
    return " ".join(sentences[:half]) + "\n" + " ".join(sentences[half:])


def _facts(rng: Random, **known: str) -> dict[str, str]:
    """Draws a restaurant and all else that a template of a document can name."""
    values = {name: _pick(rng, VALUES[name]) for name in VALUES} | known
    facts = values | {
        "about": _reference({name: values[name] for name in _draw_values(rng)}, rng),
        "kind": values["eatType"],
        "price": values["priceRange"],
        "rating": values["customer rating"],
        "where": _say("where", dict(values), rng),
        "family": _say("family", dict(values), rng),
    }
    for word, choices in {**_WORDS, "dish": _DISHES[values["food"]]}.items():
        for i, choice in enumerate(_shuffled(rng, choices), start=1):
            facts[f"{word}{i}"] = choice
    return facts
