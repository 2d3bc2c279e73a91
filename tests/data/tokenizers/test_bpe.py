import gzip
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError

TEXT = ["the cat sat on the mat", "the dog sat on the log", "Ünï 日本語 😀 cats"] * 3
TOKENIZER = Tokenizer.train(TEXT, 300)


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_training_is_repeatable_and_merges_what_is_frequent() -> None:
    again = Tokenizer.train(TEXT, 300)
    assert again.fingerprint == TOKENIZER.fingerprint
    assert len(TOKENIZER.encode("the cat sat")) <= 5  # of 11 bytes
    # The bytes, the end of text, and as many merges as the text has pairs for.
    assert 257 < TOKENIZER.vocabulary_size <= 300
    assert Tokenizer.train(["a"], 300).fingerprint != TOKENIZER.fingerprint


def test_saving_and_loading_gives_the_same_tokenizer(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.fingerprint == TOKENIZER.fingerprint
    assert loaded.encode_batch(TEXT) == [TOKENIZER.encode(text) for text in TEXT]
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    assert Tokenizer.load(tmp_path).fingerprint == TOKENIZER.fingerprint


def test_text_cannot_spell_the_end_of_text() -> None:
    assert TOKENIZER.end_token_id not in TOKENIZER.encode("a<|endoftext|>b")


def test_gpt2s_tokenizer_gives_the_ids_of_the_lora_files(real_data: Path) -> None:
    tokenizer = Tokenizer.load(real_data / "gpt2_bpe")
    assert (tokenizer.vocabulary_size, tokenizer.end_token_id) == (50257, 50256)
    file = real_data / "lora_format" / "webnlg_valid.jsonl.gz"
    for line in gzip.open(file, "rt", encoding="utf-8"):
        row = json.loads(line)
        for name, blank in (("context", ""), ("completion", " ")):
            ids = tokenizer.encode(blank + row[name])
            assert [*ids, 50256] == row[f"{name}_ids"]


@pytest.mark.parametrize(
    ("vocabulary", "merges", "sentence"),
    [
        ('{"a": 0}', "", "must hold the token '<|endoftext|>'"),
        ('{"<|endoftext|>": 1}', "", "must be 0 to 0, each once"),
        ('{"<|endoftext|>": "x"}', "", "one JSON object of token to id"),
        ("[1]", "", "one JSON object of token to id"),
        ("{", "", "Cannot read the tokenizer in"),
        ('{"<|endoftext|>": 0}', "a b c", "line 1: a merge must be two tokens"),
        ('{"<|endoftext|>": 0}', "a b", "The merges do not fit the vocabulary"),
    ],
)
def test_a_broken_tokenizer_is_refused(
    tmp_path: Path, vocabulary: str, merges: str, sentence: str
) -> None:
    (tmp_path / "vocab.json").write_text(vocabulary)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(InputError, match=sentence.replace("|", r"\|")):
        Tokenizer.load(tmp_path)


def without_all_bytes(folder: Path) -> Path:
    """Trains as the library does by default: an alphabet of what the text has."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False
    )
    bpe.train_from_iterator(["The pub is at the river side ."], trainer)
    folder.mkdir(exist_ok=True)
    bpe.model.save(str(folder))
    # What the library does with such a vocabulary: 6 of 14 bytes vanish.
    assert "".join(bpe.encode("the Zürich pub").tokens) == "theĠrihĠpub"
    return folder


def test_a_vocabulary_without_all_bytes_is_refused_by_their_names(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError) as caught:
        Tokenizer.load(without_all_bytes(tmp_path / "t"))
    message = str(caught.value)
    assert f"'{tmp_path / 't'}' cannot be used" in message
    known = {*b"The pub is at the river side ."}
    assert f"none for {256 - len(known)} bytes (0x00, 0x01" in message


# As OpenAI's `bytes_to_unicode` writes them.
@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\u0100", "0x00"),
        ("\u0120", "0x20"),
        ("A", "0x41 'A'"),
        ("\u0143", "0xAD"),
        ("Ã", "0xC3"),
        ("ÿ", "0xFF"),
    ],
)
def test_a_single_missing_byte_is_named(character: str, name: str) -> None:
    names = [token for token in TOKENIZER.vocabulary if token != character]
    with pytest.raises(InputError, match=rf"none for 1 bytes \({name}\)"):
        Tokenizer({token: i for i, token in enumerate(names)}, [])


def test_a_missing_tokenizer_and_a_tiny_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vocab.json and merges.txt or encoder.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match="at least 257"):
        Tokenizer.train(TEXT, 256)
