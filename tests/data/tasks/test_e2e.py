import gzip
from pathlib import Path

import numpy as np
import pytest

from spdf_keras.data.tasks.e2e import find_split, linearise, read_e2e
from spdf_keras.data.tasks.examples import EncodedPairs, encode_context
from spdf_keras.data.tasks.references import read_references
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError

EXAMPLES = [
    Example(f"name : The {n} | area : {n * 'by '}sea", (f"{n} is by", f"{n * 'sea '}"))
    for n in range(1, 12)
]
TOKENIZER = Tokenizer.train([e.context for e in EXAMPLES], 280)


def test_a_meaning_representation_is_linearised_as_the_lora_recipe_does() -> None:
    mr = (
        "name[The Eagle], eatType[coffee shop], priceRange[£20-25], "
        "customer rating[5 out of 5], familyFriendly[yes], near[Burger King]"
    )
    assert linearise(mr) == (
        "name : The Eagle | Type : coffee shop | price : £ 20 - 25 | "
        "customer rating : 5 out of 5 | family friendly : yes | near : Burger King"
    )


@pytest.mark.parametrize(
    "mr", ["", "name", "name[Aromi", "[Aromi]", "name[A], then more", "name[A] area]"]
)
def test_what_is_no_meaning_representation_is_refused(mr: str) -> None:
    with pytest.raises(InputError, match="must look like `name"):
        linearise(mr)


@pytest.mark.parametrize(
    ("split", "lora", "inputs", "pairs"),
    [
        ("train", "train", 4862, 42_061),
        ("validation", "valid", 547, 4672),
        ("test", "test", 630, 4693),
    ],
)
def test_the_official_files_give_the_contexts_of_the_lora_files(
    real_data: Path, split: str, lora: str, inputs: int, pairs: int
) -> None:
    examples = read_e2e(find_split(real_data, split))
    assert len(examples) == inputs
    assert sum(len(example.references) for example in examples) == pairs
    expected: dict[str, list[str]] = {}
    with gzip.open(real_data / f"e2e/lora_txt/{lora}.txt.gz", "rt") as file:
        for line in file:
            context, text = line.split("||")
            expected.setdefault(context, []).append("".join(text.split()))
    for example in examples:  # the references differ in white space alone
        found = ["".join(text.split()) for text in example.references]
        assert sorted(found) == sorted(expected.pop(example.context))
    assert not expected


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "must start with the header `mr,ref`"),
        ("a,b\n", "must start with the header `mr,ref`"),
        ("mr,ref\n", "has no rows"),
        ("mr,ref\nname[A],good\nname[B]\n", "line 3: a row must have"),
        ("mr,ref\nname[A],\n", "line 2: a row must have"),
        ("mr,ref\nname[A],b,c\n", "line 2: a row must have"),
        ("mr,ref\nAromi,text\n", "line 2: A meaning representation must look"),
        ('mr,ref\n"name[A],text\n', "line 2: not a csv row"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(
    tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "trainset.csv").write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_e2e(find_split(tmp_path, "train"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected devset.csv or devset.csv.gz"):
        find_split(tmp_path, "validation")


def test_every_pair_is_in_one_batch_and_only_targets_have_weight() -> None:
    pairs = EncodedPairs.encode(EXAMPLES, TOKENIZER, 128)
    assert len(pairs) == 22
    seen = []
    for token_ids, labels, weights in pairs.batches(4, "0:1").as_numpy_iterator():
        assert token_ids.shape == labels.shape == weights.shape
        assert token_ids.shape[0] == 4 and token_ids.shape[1] % 16 == 0
        for x, y, w in zip(token_ids, labels, weights, strict=True):
            if w.sum() == 0:
                continue  # a row that fills the last batch up
            scored = np.flatnonzero(w)
            # From the separator on, without a gap, to the final end of text.
            assert x[scored[0]] == y[scored[-1]] == TOKENIZER.end_token_id
            assert np.all(np.diff(scored) == 1)
            context = TOKENIZER.decode(x[: scored[0]])
            target = TOKENIZER.decode(y[scored[:-1]])
            seen.append((context, target))
            np.testing.assert_array_equal(x[1 : scored[-1] + 1], y[: scored[-1]])
    assert sorted(seen) == sorted(
        (e.context, " " + r) for e in EXAMPLES for r in e.references
    )


def test_the_order_of_a_pass_is_a_function_of_its_name() -> None:
    pairs = EncodedPairs.encode(EXAMPLES, TOKENIZER, 128)

    def first(order: str | None) -> bytes:
        parts = [x.tobytes() for x, _, _ in pairs.batches(4, order).as_numpy_iterator()]
        return b"|".join(parts)

    assert first("0:1") == first("0:1") != first("0:2")
    widths = [x.shape[1] for x, _, _ in pairs.batches(4).as_numpy_iterator()]
    assert widths == sorted(widths)


def test_a_pair_that_is_too_long_is_refused() -> None:
    with pytest.raises(
        InputError,
        match=r"Example 1 of the task has \d+ tokens with its reference 1, more",
    ):
        EncodedPairs.encode(EXAMPLES, TOKENIZER, 8)
    with pytest.raises(InputError, match="no examples"):
        EncodedPairs.encode([], TOKENIZER, 8)


def test_a_context_ends_with_the_separator() -> None:
    ids = encode_context(TOKENIZER, "name : The 3")
    assert ids[-1] == TOKENIZER.end_token_id and TOKENIZER.decode(ids[:-1])


def test_references_come_in_blocks_or_in_files(tmp_path: Path) -> None:
    blocks, a, b = (tmp_path / name for name in ("blocks", "a", "b"))
    blocks.write_text("one\nuno\n\ntwo\n")
    a.write_text("one\ntwo\n")
    b.write_text("uno\n\n")
    assert (
        read_references([blocks])
        == read_references([a, b])
        == [["one", "uno"], ["two"]]
    )
    b.write_text("uno\n")
    with pytest.raises(InputError, match="2 lines in .*a', 1 in .*b'"):
        read_references([a, b])
