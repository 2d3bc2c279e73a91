"""The words and templates of the restaurant corpus: data alone.

Names, places and sentences are this project's own; only the attributes and the format
of meaning representations (MRs) are E2E's.
"""

from collections.abc import Sequence
from math import prod

_FIRST = "Amber Copper Crooked Hidden Ivory Merry Painted Silver Sleepy Velvet".split()
_LAST = "Badger Barrel Compass Fiddle Heron Kettle Orchard Pelican Teapot Wheel".split()
_OWNERS = "Bramley Hollis Quill Sorrel Tansy Yarrow".split()
_ROOMS = "Cellar Kitchen Larder Table".split()
DISHES = {
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
# The attributes have E2E's order. Except yes and no, a value is part of no other value
# and of no template for references: a text that contains it says it on purpose.
VALUES: dict[str, Sequence[str]] = {
    "name": [f"The {first} {last}" for first in _FIRST for last in _LAST]
    + [f"{owner} {room}" for owner in _OWNERS for room in _ROOMS],
    "eatType": ("alehouse", "bistro", "canteen", "diner", "tavern", "tea room"),
    "food": tuple(DISHES),
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
# The sizes that MRs are drawn from: a name and two others at least. In E2E, too, few
# have 3 attributes or all 8.
NUM_ATTRIBUTES = (3, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 8)
_SIZES = [len(VALUES[attribute]) for attribute in VALUES if attribute != "name"]
NUM_MRS = len(VALUES["name"]) * (prod(n + 1 for n in _SIZES) - sum(_SIZES) - 1)

# The attributes of each slot of a template. A slot says those that are still unsaid, at
# least one: as phrases if it is in `JOINS`, otherwise word for word.
SLOTS = {
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
JOINS = {"where": " ", "features": " and ", "family": ""}
PHRASES = {
    "area": ("in the {}",),
    "near": ("near {}", "close to {}"),
    "priceRange": ("{} prices", "a {} price range"),
    "customer rating": ("a customer rating of {}", "{} from its customers"),
}
# Templates write every article as "a"; the generator makes it "an" before a vowel.
LEADS = (
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
DETAILS = (
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

# Words that a document draws: `person1` and `person2` are two different people.
WORDS = {
    "person": "Ada Bruno Clara Dmitri Elena Farid Greta Hugo Ines Jonas".split(),
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "street": ("Baker Lane", "Harp Street", "King Row", "Mint Street", "Rope Walk"),
    "drink": ("apple juice", "black tea", "cold beer", "mint tea", "red wine"),
    "opening": ("eight in the morning", "ten in the morning", "noon"),
    "closing": ("nine in the evening", "half past ten", "midnight"),
    "number": "three four five six seven eight nine ten twelve fifteen".split(),
}
# In each kind of document, the first two lines are openings, the last two endings: a
# document has one of each and, between them, some of the other lines in their order. A
# "|" starts a new line.
DOCUMENTS = {
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
