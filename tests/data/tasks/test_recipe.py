"""The readers against the LoRA recipe's own examples and the published counts."""

import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.data.tasks.dart import read_dart_file
from spdf_keras.data.tasks.examples import EncodedPairs, encode_context
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.data.tasks.task import Counts, Examples, counts
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.flops import FINETUNE_SEQUENCES

# The recipe's references of E2E have blanks that the csv has not.
FOLDERS = {"e2e": "e2e/lora_txt", "webnlg": "webnlg", "dart": "dart"}


def recipe_lines(real_data: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(real_data / f"lora_format/{name}_valid.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


Read = Callable[[str, str], Examples]


@pytest.fixture(scope="module")
def read(real_data: Path) -> Read:
    """Reads a split of a task, each once."""
    return cache(lambda name, split: TASKS[name].read(real_data, split))


@pytest.mark.parametrize("name", FOLDERS)
def test_texts_and_tokens_are_those_of_the_lora_recipe(
    real_data: Path, name: str
) -> None:
    # A context is one example here, and a line per reference there.
    expected: dict[str, list[dict[str, Any]]] = {}
    for line in recipe_lines(real_data, name):
        expected.setdefault(line["context"], []).append(line)
    examples = TASKS[name].read(real_data / FOLDERS[name], "validation")
    assert [example.context for example in examples] == list(expected)
    tokenizer = Tokenizer.load(real_data / "gpt2_bpe")
    pairs = EncodedPairs.encode(examples, tokenizer, 512)
    number = 0
    for example, lines in zip(examples, expected.values(), strict=True):
        assert list(example.references) == [line["completion"] for line in lines]
        assert encode_context(tokenizer, example.context) == lines[0]["context_ids"]
        assert {line.get("cate") for line in lines} == {example.seen}
        for line in lines:
            token_ids = line["context_ids"] + line["completion_ids"]
            assert pairs.token_ids[number].tolist() == token_ids
            assert pairs.context_lengths[number] == len(line["context_ids"])
            number += 1
    assert number == len(pairs)


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("e2e", "train", Counts(4862, 42_061, {})),
        (
            "webnlg",
            "train",
            Counts(
                6888, 18_025, {"texts not marked good": 77, "inputs without a text": 5}
            ),
        ),
        (
            "webnlg",
            "validation",
            Counts(
                870, 2258, {"texts not marked good": 10, "inputs without a text": 1}
            ),
        ),
        ("webnlg", "test", Counts(1862, 4928, {})),
        ("dart", "validation", Counts(2721, 6980, {})),
    ],
)
def test_inputs_and_pairs_are_as_many_as_published(
    read: Read, name: str, split: str, expected: Counts
) -> None:
    assert counts(read(name, split)) == expected


@pytest.mark.parametrize(("name", "key"), [("e2e", "E2E"), ("webnlg", "WebNLG")])
def test_the_flops_table_counts_whole_passes_over_the_pairs(
    read: Read, name: str, key: str
) -> None:
    pairs = counts(read(name, "train")).pairs
    assert FINETUNE_SEQUENCES[key] == 3 * pairs


def test_the_webnlg_test_set_has_a_seen_and_an_unseen_part(read: Read) -> None:
    examples = read("webnlg", "test")
    assert sum(example.seen is True for example in examples) == 971
    unseen = {example.category for example in examples if example.seen is False}
    assert unseen == {
        *("Artist", "Athlete", "CelestialBody", "MeanOfTransportation", "Politician")
    }


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_official_archive_and_the_json_of_webnlg_give_equal_examples(
    real_data: Path, read: Read, tmp_path: Path, split: str
) -> None:
    name = "webnlg_challenge_2017_xml.tar.gz"
    (tmp_path / name).symlink_to(real_data / "webnlg" / name)
    from_xml = TASKS["webnlg"].read(tmp_path, split)
    from_json = read("webnlg", split)
    assert from_xml == from_json and from_xml.left_out == from_json.left_out


@pytest.mark.parametrize("part", ["dev.{}", "test.{}"])
def test_the_xml_and_the_json_of_dart_give_equal_examples(
    real_data: Path, part: str
) -> None:
    stem = f"{real_data}/dart/dart-v1.1.1-full-{part}.gz"
    json_name = "json" if "dev" in part else "from_xml.json"
    from_xml = read_dart_file(stem.format("xml"))
    from_json = read_dart_file(stem.format(json_name))
    assert from_xml == from_json and from_xml.left_out == from_json.left_out
    if "test" in part:  # 12,552 annotations, of which one is empty
        assert counts(from_xml) == Counts(4159, 12_551, {"empty texts": 1})
