"""The restaurant corpus: what it promises about its MRs, sentences and files."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from spdf_keras.data.samples import grammar, restaurants
from spdf_keras.data.samples.grammar import FAMILY_PHRASES, NUM_MRS, VALUES
from spdf_keras.data.samples.restaurants import (
    Restaurant,
    generate_restaurants,
    pretraining_text,
    write_csv,
)
from spdf_keras.errors import InputError

E2E_ORDER = [
    *("name", "eatType", "food", "priceRange"),
    *("customer rating", "area", "familyFriendly", "near"),
]
RESTAURANTS = generate_restaurants(300, seed=0)
REFERENCES = [(r.mr, reference) for r in RESTAURANTS for reference in r.references]
DOCUMENTS = list(pretraining_text(300, seed=0))


def parse(mr: str) -> dict[str, str]:
    return dict(re.findall(r"(\w[\w ]*)\[([^\]]*)\]", mr))


def test_the_first_restaurant_of_seed_0_never_changes() -> None:
    assert RESTAURANTS[0] == Restaurant(
        "name[Yarrow Kitchen], eatType[tavern], food[Peruvian], "
        "priceRange[moderate], customer rating[one star], near[Kestrel Tower]",
        (
            "Close to Kestrel Tower, there is a Peruvian tavern called Yarrow "
            "Kitchen. Its price range is moderate. It has a customer rating of one "
            "star.",
            "Yarrow Kitchen is a Peruvian tavern. You can find it close to Kestrel "
            "Tower. Its customer rating is one star. Its price range is moderate.",
            "Near Kestrel Tower, Yarrow Kitchen is a Peruvian tavern with one star "
            "from its customers and moderate prices.",
        ),
    )


def test_the_first_document_of_seed_0_never_changes() -> None:
    assert DOCUMENTS[0].split("\n") == [
        "Greta: I would like Hungarian food.",
        "Ines: Then let us go to The Copper Barrel.",
        "Greta: Is it far from here?",
        "Ines: No, it is close to Miller Hall in the west end.",
        "Greta: Is it expensive?",
        "Ines: You can expect high prices.",
        "Greta: What should I order?",
        "Ines: The cherry strudel is very good there.",
        "Greta: What do they have to drink?",
        "Ines: They make good black tea.",
        "Greta: When does it close?",
        "Ines: It closes at midnight.",
        "Greta: Good, I will call The Copper Barrel.",
        "Ines: Ask for the window table.",
    ]


def test_a_shorter_list_is_the_start_of_a_longer_one() -> None:
    assert generate_restaurants(7, seed=0) == RESTAURANTS[:7]
    assert list(pretraining_text(7, seed=0)) == DOCUMENTS[:7]


def test_fewer_references_are_the_first_of_more() -> None:
    for few, more in zip(generate_restaurants(50, 0, 1), RESTAURANTS, strict=False):
        assert few == Restaurant(more.mr, more.references[:1])


def test_the_meaning_representations_are_distinct() -> None:
    assert len({r.mr for r in RESTAURANTS}) == len(RESTAURANTS) == 300


def test_a_meaning_representation_drawn_twice_is_kept_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = iter("AABAC")
    monkeypatch.setattr(
        restaurants, "_draw_values", lambda rng: {"name": next(draws), "food": "Greek"}
    )
    names = [parse(r.mr)["name"] for r in generate_restaurants(3, seed=0)]
    assert names == ["A", "B", "C"]


@pytest.mark.parametrize("other_seed", [1, -1, 10])
def test_two_seeds_share_almost_nothing(other_seed: int) -> None:
    ours, theirs = (
        {r.mr for r in generate_restaurants(200, seed, 1)} for seed in (-10, other_seed)
    )
    assert len(ours & theirs) <= 2
    assert not set(DOCUMENTS) & set(pretraining_text(50, other_seed))


def test_a_meaning_representation_has_3_to_8_attributes_in_the_order_of_e2e() -> None:
    assert list(VALUES) == E2E_ORDER
    sizes: Counter[int] = Counter()
    for mr, _ in RESTAURANTS:
        values = parse(mr)
        assert ", ".join(f"{name}[{value}]" for name, value in values.items()) == mr
        assert list(values) == [name for name in E2E_ORDER if name in values]
        assert "name" in values
        assert all(value in VALUES[name] for name, value in values.items())
        sizes[len(values)] += 1
    assert sorted(sizes) == [3, 4, 5, 6, 7, 8]
    assert max(sizes[3], sizes[8]) < min(sizes[5], sizes[6])


def test_every_value_of_the_grammar_is_used() -> None:
    seen = {item for r in RESTAURANTS * 2 for item in parse(r.mr).items()}
    for name in E2E_ORDER[1:]:
        assert {value for key, value in seen if key == name} == set(VALUES[name])


def test_a_reference_says_each_value_and_no_other() -> None:
    for mr, reference in REFERENCES:
        values = parse(mr)
        for name in VALUES.keys() - {"familyFriendly"}:
            said = [value for value in VALUES[name] if value in reference]
            assert said == ([values[name]] if name in values else []), reference


def test_a_reference_says_in_one_phrase_whether_families_may_come() -> None:
    for mr, reference in REFERENCES:
        phrases = [
            (answer, phrase)
            for answer in ("yes", "no")
            for phrase in FAMILY_PHRASES[answer]
            if phrase in reference
        ]
        values = parse(mr)
        answers = [values["familyFriendly"]] if "familyFriendly" in values else []
        assert [answer for answer, _ in phrases] == answers, reference


def test_no_value_hides_in_another_value_or_in_a_template() -> None:
    values = {v for name in VALUES for v in VALUES[name]} - {"yes", "no"}
    phrases = {phrase for options in grammar.PHRASES.values() for phrase in options}
    phrases |= {phrase for options in FAMILY_PHRASES.values() for phrase in options}
    templates = {*grammar.LEADS, *grammar.DETAILS}
    for value in values:
        for text in (values - {value}) | phrases | templates:
            assert value not in text


def test_food_of_no_known_kind_is_that_of_a_place() -> None:
    values = {"name": "Quill Table", "food": "Greek", "area": "west end"}
    references = {restaurants._reference(values, Random(seed)) for seed in range(40)}
    assert "Quill Table is a Greek place in the west end." in references


@pytest.mark.parametrize("size", range(2, 8))
def test_every_set_of_attributes_can_be_said(size: int) -> None:
    for names in combinations(E2E_ORDER[1:], size):
        values = {n: VALUES[n][0] for n in E2E_ORDER if n in ("name", *names)}
        assert all(restaurants._reference(values, Random(seed)) for seed in range(20))


def test_references_of_one_restaurant_are_distinct_and_up_to_the_number_asked() -> None:
    for num_references in (1, 3, 8):
        lists = [r.references for r in generate_restaurants(50, 0, num_references)]
        assert all(len(set(refs)) == len(refs) for refs in lists)
        assert all(1 <= len(refs) <= num_references for refs in lists)
        assert sum(len(refs) for refs in lists) > 0.95 * 50 * num_references


def test_a_restaurant_with_few_wordings_gets_fewer_references() -> None:
    values = {"name": "Quill Table", "eatType": "diner", "familyFriendly": "no"}
    references = restaurants._references(values, Random(0), 60)
    assert "Quill Table is a diner that is for adults only." in references
    assert len(references) == 9


def test_the_grammar_has_many_sentence_plans() -> None:
    assert len({*grammar.LEADS, *grammar.DETAILS}) >= 25
    slots = str.maketrans({"{": "<", "}": ">"})
    corpus = "\n".join(reference for _, reference in REFERENCES)
    for template in (*grammar.LEADS, *grammar.DETAILS):
        pattern = re.sub(r"<\w+>", ".+", re.escape(template.translate(slots)))
        assert re.search(pattern, corpus, re.IGNORECASE), template


def test_the_number_of_meaning_representations_is_counted_right() -> None:
    sizes = [len(VALUES[name]) for name in E2E_ORDER[1:]]
    total = 0
    for chosen in range(2, 8):
        for some in combinations(sizes, chosen):
            product = len(VALUES["name"])
            for size in some:
                product *= size
            total += product
    assert total == NUM_MRS


def sentences() -> Iterator[str]:
    for text in [reference for _, reference in REFERENCES] + DOCUMENTS:
        for line in text.split("\n"):
            yield from re.split(r"(?<=[.?]) ", re.sub(r"^[A-Z]\w+: ", "", line))


def test_sentences_begin_with_a_capital_and_end_with_a_stop() -> None:
    for sentence in sentences():
        assert re.fullmatch(r"[A-Z][^.?!:|{}\[\]]*[.?]", sentence), sentence


def test_no_text_has_doubled_spaces_or_doubled_words() -> None:
    for sentence in sentences():
        assert sentence == " ".join(sentence.split())
        assert not re.search(r"\b(\w+) \1\b", sentence, re.IGNORECASE), sentence


def test_the_article_is_an_before_a_vowel_and_only_there() -> None:
    # No word of the grammar is spelled against its sound, as "hour" or "use" are.
    for sentence in sentences():
        assert not re.search(r"\b[Aa] [aeiouAEIOU]", sentence), sentence
        assert not re.search(r"\b[Aa]n [^aeiouAEIOU]", sentence), sentence


def test_documents_have_60_to_200_words_and_no_meaning_representation() -> None:
    assert len(set(DOCUMENTS)) == len(DOCUMENTS) == 300
    assert all(60 <= len(document.split()) <= 200 for document in DOCUMENTS)
    assert all(2 <= len(document.split("\n")) <= 20 for document in DOCUMENTS)
    assert not any("[" in document or "\n\n" in document for document in DOCUMENTS)


def test_documents_are_of_every_kind_and_use_every_template() -> None:
    corpus = "\n".join(DOCUMENTS)
    for templates in grammar.DOCUMENTS.values():
        for template in templates.strip().split("\n"):
            longest = max(re.split(r"{\w+}|\|| a ", template), key=len).strip()
            assert longest in corpus, template


def test_documents_speak_of_what_the_meaning_representations_name() -> None:
    corpus = "\n".join(DOCUMENTS)
    for name in VALUES.keys() - {"name", "familyFriendly"}:
        assert all(value in corpus for value in VALUES[name])
    assert sum(name in corpus for name in VALUES["name"]) > 100
    assert all(f" {phrase}." in corpus for phrase in FAMILY_PHRASES["no"])
    rated = re.findall(r"(?:rating of|give it) (\w+ \w+)[.,]", corpus)
    assert set(rated) == set(VALUES["customer rating"])
    words = re.compile(r"[a-z'-]+")
    assert len(set(words.findall(corpus.lower()))) > 400


def test_a_document_keeps_the_order_of_its_templates() -> None:
    early, late = "The last orders are taken", "Dogs are allowed"
    both = [d for d in DOCUMENTS if early in d and late in d]
    assert len(both) > 10
    assert all(d.index(early) < d.index(late) for d in both)


def test_a_guide_names_several_restaurants_of_one_part_of_town() -> None:
    guides = [d for d in DOCUMENTS if "good part of town" in d]
    assert len(guides) > 10
    areas = [[area for area in VALUES["area"] if area in guide] for guide in guides]
    assert {len(names) for names in areas} == {1}
    assert {area for names in areas for area in names} == set(VALUES["area"])
    assert all(sum(name in guide for name in VALUES["name"]) > 1 for guide in guides)


def test_a_document_about_one_restaurant_names_no_other() -> None:
    reviews = [d for d in DOCUMENTS if "years before I went in" in d]
    assert len(reviews) > 10
    for review in reviews:
        for name in ("name", "eatType", "customer rating", "near"):
            assert sum(value in review for value in VALUES[name]) <= 1, review


def test_csv_comes_back_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    write_csv(RESTAURANTS, path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    assert rows == [("mr", "ref"), *REFERENCES]


def test_csv_has_the_bytes_of_e2e(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    rows = ("Aé is near B.", "Aé, a diner, is near B.")
    write_csv([Restaurant("name[Aé], near[B]", rows)], str(path))
    assert path.read_bytes().decode("utf-8") == (
        "mr,ref\r\n"
        '"name[Aé], near[B]",Aé is near B.\r\n'
        '"name[Aé], near[B]","Aé, a diner, is near B."\r\n'
    )
    assert list(tmp_path.iterdir()) == [path]


def test_a_csv_that_fails_half_way_leaves_the_old_one_alone(tmp_path: Path) -> None:
    def broken() -> Iterator[Restaurant]:
        yield RESTAURANTS[0]
        raise RuntimeError("half way")

    path = tmp_path / "train.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        write_csv(broken(), path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("count", [0, -3])
def test_a_count_below_1_is_refused(count: int) -> None:
    sentence = rf"`count` must be at least 1\. Received: count={count}$"
    with pytest.raises(InputError, match=sentence):
        generate_restaurants(count, seed=0)


def test_more_than_the_grammar_can_write_is_refused_at_once() -> None:
    sentence = rf"`count` must be at most {NUM_MRS}, .* Received: count={NUM_MRS + 1}$"
    with pytest.raises(InputError, match=sentence):
        generate_restaurants(NUM_MRS + 1, seed=0)


def test_no_references_or_no_documents_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="`num_references` must be at least 1"):
        generate_restaurants(1, seed=0, num_references=0)
    with pytest.raises(InputError, match="`num_documents` must be at least 1"):
        pretraining_text(0, seed=0)
