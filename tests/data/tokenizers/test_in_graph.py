"""The in-graph tokenizer against the `tokenizers` library, through `Tokenizer`."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from spdf_keras.data.tokenizers.bpe import END_OF_TEXT, Tokenizer
from spdf_keras.data.tokenizers.in_graph import GraphTokenizer
from spdf_keras.data.tokenizers.words import character_classes, word_starts

Pair = tuple[Tokenizer, GraphTokenizer]

# Merges across classes: a word that is cut at another place has other ids.
TEXT = [
    "it's  we'll\n\n1st a1!? ...--- \u00a0\u00a0 x\u00b2 e\u0301\u3000日本 😀😀"
] * 3
SMALL = Tokenizer.train(TEXT, 400)
SMALL_GRAPH = GraphTokenizer(SMALL)

# What the regular expression treats in its own way, close together.
TANGLED = st.text(
    " \n\t\r\x0b'stremvlda1!\u00a0\u2003\u2028\u0085é\u0301日😀६²", max_size=12
)
HARD = [
    *("", " ", "  ", "   ", "\n", "\n\n", "a ", "a  ", "a\n\n", " a", "  a", "a  b"),
    *("a \n b", "a\n b\n  c", "a\r\nb", "a\t\tb", "! \n!", "a\x0bb", "a\x0cb"),
    *(
        "it's",
        "x 's",
        "x\t's",
        "''s",
        "'ss",
        "'sll",
        "'S",
        "'re've'll",
        "l'l'll",
        "1's",
    ),
    *(" '", " 's", "\u00a0's", "'", "'r", "'v'l", "'s's", "IT'S", "can't'd"),
    *("a\u00a0b", "a\u00a0\u00a0", "\u2028x", "a\u2028\u2028b", "a\u2003 b", "a\x85b"),
    *("\u200b x", "\ufeffabc", "a\u1680b", "a\x1cb", "a\x00b\x01", "\x00", "\x7f"),
    *("<|endoftext|>", "a<|endoftext|>b", "६", "a ६ b", "१६ रुपये", "１２３ ٣٤ ② x²"),
    *(
        "e\u0301é",
        "日本語テキスト",
        "😀👨\u200d👩\u200d👧",
        "ﬁ ǅ ª",
        "\u0378\U0010ffff\ue000",
    ),
    *("\ufffd", "\ufffe\uffff", "U+1E5FF \U0001e5ff", "well - known", "- -- --- ..."),
]


@pytest.fixture(scope="module")
def gpt2(real_data: Path) -> Pair:
    tokenizer = Tokenizer.load(real_data / "gpt2_bpe")
    return tokenizer, GraphTokenizer(tokenizer)


def assert_equal(tokenizer: Tokenizer, graph: GraphTokenizer, texts: list[str]) -> None:
    """The same ids, and the texts come back from them."""
    ids = graph.encode_batch(texts)
    assert ids.dtype == tf.int32 and ids.to_list() == tokenizer.encode_batch(texts)
    assert [t.decode() for t in graph.decode_batch(ids).numpy()] == texts


@given(st.lists(st.text() | TANGLED, max_size=4))
@settings(deadline=None)
def test_any_texts_get_the_ids_of_the_tokenizer(texts: list[str]) -> None:
    assert_equal(SMALL, SMALL_GRAPH, texts)


def test_any_texts_get_the_ids_of_gpt2s_tokenizer(gpt2: Pair) -> None:
    @given(st.lists(st.text() | TANGLED, max_size=4))
    @settings(deadline=None)
    def check(texts: list[str]) -> None:
        assert_equal(*gpt2, texts)

    check()


def test_hard_texts_get_the_ids_of_gpt2s_tokenizer(gpt2: Pair) -> None:
    tokenizer, graph = gpt2
    assert_equal(tokenizer, graph, HARD)
    assert_equal(SMALL, SMALL_GRAPH, HARD)
    for text in HARD:  # and each by itself
        ids = graph.encode(text)
        assert ids.numpy().tolist() == tokenizer.encode(text)
        assert graph.decode(ids).numpy().decode() == text


@pytest.mark.parametrize(
    "split",
    ["valid", *(pytest.param(n, marks=pytest.mark.slow) for n in ("test", "train"))],
)
def test_wikitext_gets_the_ids_of_gpt2s_tokenizer(
    gpt2: Pair, real_data: Path, split: str
) -> None:
    tokenizer, graph = gpt2
    path = real_data / "wikitext2" / f"{split}.txt.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    ids = graph.encode_batch(text.split("\n"))
    expected = tokenizer.encode_batch(text.split("\n"))
    assert ids.row_lengths().numpy().tolist() == [len(row) for row in expected]
    assert np.array_equal(ids.values, np.concatenate(expected).astype(np.int32))
    assert b"\n".join(graph.decode_batch(ids).numpy()).decode() == text
    whole = graph.encode(text)  # with its line ends
    assert np.array_equal(whole, tokenizer.encode(text))


def batched(codes: list[int], size: int = 4000) -> list[list[int]]:
    return [codes[start : start + size] for start in range(0, len(codes), size)]


def test_every_character_is_of_the_class_that_the_library_says() -> None:
    planes = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)]
    # A letter joins the `a`, a number the `1`, another character the `!`, and
    # white space none. Each text has a part of the characters: the library takes
    # more than twice as long for all at once.
    texts = [
        "".join(f"1{chr(code)}a!{chr(code)}" for code in part)
        for part in batched(planes)
    ]
    library = pre_tokenizers.ByteLevel(add_prefix_space=False)
    expected, place = [], 0
    for text in texts:
        words = library.pre_tokenize_str(text)
        expected += [place + start for _, (start, _) in words]
        place += len(text)
    codes = tf.strings.unicode_decode(texts, "UTF-8")
    rows = tf.cast(codes.value_rowids(), tf.int32)
    classes = tf.constant(character_classes())
    assert np.array_equal(word_starts(codes.values, rows, classes), expected)
    # All others are of no class.
    cutter = pre_tokenizers.Split(Regex(r"[\p{L}\p{N}\s]"), "isolated")
    for part in batched([*range(0x40000, 0xE0000), *range(0xE1000, 0x110000)]):
        assert len(cutter.pre_tokenize_str("".join(map(chr, part)))) == 1


BYTES = st.lists(
    st.binary(max_size=3)
    | st.sampled_from([b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\x80"])
    | st.sampled_from([b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"a", b" "])
)


@given(BYTES)
@settings(deadline=None)
def test_bytes_that_are_no_utf_8_are_replaced_as_in_python(parts: list[bytes]) -> None:
    content = b"".join(parts)
    text = content.decode("utf-8", errors="replace")
    ids = SMALL_GRAPH.encode(content)
    assert ids.numpy().tolist() == SMALL.encode(text)
    assert SMALL_GRAPH.decode(ids).numpy().decode() == text


@given(st.lists(st.integers(-2, SMALL.vocabulary_size + 1)))
@settings(deadline=None)
def test_any_ids_are_decoded_as_the_tokenizer_does(ids: list[int]) -> None:
    known = [i for i in ids if 0 <= i < SMALL.vocabulary_size]
    decoded = SMALL_GRAPH.decode(tf.constant(ids, tf.int32)).numpy()
    assert decoded.decode() == SMALL.decode(known)


def test_padding_is_left_out_of_the_text() -> None:
    padded = SMALL_GRAPH.encode_batch(["a longer text", "é"]).to_tensor(-1)
    ragged = tf.RaggedTensor.from_tensor(padded)
    texts = SMALL_GRAPH.decode_batch(ragged).numpy().tolist()
    assert texts == [b"a longer text", "é".encode()]


def test_it_works_inside_functions_and_datasets() -> None:
    expected = SMALL.encode_batch(HARD)
    dataset = tf.data.Dataset.from_tensor_slices(HARD)
    singles = dataset.map(SMALL_GRAPH.encode).as_numpy_iterator()
    assert [ids.tolist() for ids in singles] == expected
    batches = dataset.batch(7).map(SMALL_GRAPH.encode_batch, num_parallel_calls=2)
    assert [row for batch in batches for row in batch.to_list()] == expected

    @tf.function
    def there_and_back(texts: Any) -> Any:
        return SMALL_GRAPH.decode_batch(SMALL_GRAPH.encode_batch(texts))

    texts = there_and_back(tf.constant(HARD)).numpy()
    assert [text.decode() for text in texts] == HARD


def test_a_saved_model_of_it_runs_without_this_package(tmp_path: Path) -> None:
    tf.saved_model.save(SMALL_GRAPH, str(tmp_path / "model"))
    (tmp_path / "texts.json").write_text(json.dumps(HARD))
    code = (
        "import json, sys, tensorflow as tf\n"
        "texts = json.load(open('texts.json'))\n"
        "model = tf.saved_model.load('model')\n"
        "ids = model.encode_batch(tf.constant(texts))\n"
        "back = [text.decode() for text in model.decode_batch(ids).numpy()]\n"
        "assert back == texts\n"
        "assert not {'spdf_keras', 'tensorflow_text'} & set(sys.modules)\n"
        "print(json.dumps(ids.to_list()))\n"
    )
    output = subprocess.run(
        [sys.executable, "-I", "-c", code],  # without the folder of the tests
        cwd=tmp_path,
        capture_output=True,
        check=True,
    ).stdout
    assert json.loads(output) == SMALL.encode_batch(HARD)


def test_a_long_word_takes_few_steps(gpt2: Pair) -> None:
    assert_equal(*gpt2, ["a" * 20_000, "ab" * 5_000 + "b", "日本" * 2_000, "=" * 999])


def random_tokenizer(seed: int, is_ordered: bool) -> Tokenizer:
    """All bytes and up to 40 random merges of a, b and c.

    If not `is_ordered`, some are listed twice, some make a token that another
    makes, and some come before those that make their parts.
    """
    draw = random.Random(seed)
    tokens, merges = ["a", "b", "c"], []
    for _ in range(40):
        pair = (draw.choice(tokens), draw.choice(tokens))
        if not is_ordered or "".join(pair) not in tokens:
            merges.append(pair)
            tokens.append("".join(pair))
    if not is_ordered:
        draw.shuffle(merges)
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = dict.fromkeys([END_OF_TEXT, *characters, *tokens])
    return Tokenizer({name: number for number, name in enumerate(names)}, merges)


@pytest.mark.parametrize("is_ordered", [True, False])
def test_merges_in_any_order_are_done_as_the_library_does(is_ordered: bool) -> None:
    draw = random.Random(0)
    texts = ["".join(draw.choices("abc", k=draw.randrange(30))) for _ in range(300)]
    for seed in range(2):
        tokenizer = random_tokenizer(seed, is_ordered)
        graph = GraphTokenizer(tokenizer)
        assert graph._is_ordered is is_ordered
        assert_equal(tokenizer, graph, texts)


def test_a_vocabulary_without_merges_or_with_odd_tokens_is_equal_too() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer({c: i for i, c in enumerate([END_OF_TEXT, *alphabet])}, [])
    names = [*alphabet, "ab", END_OF_TEXT, "<日>"]
    merged = Tokenizer({c: i for i, c in enumerate(names)}, [("a", "b")])
    texts = ["ab ab", "axb", "", "x", "xxa", "日a"]
    for tokenizer in (plain, merged):
        graph = GraphTokenizer(tokenizer)
        assert_equal(tokenizer, graph, texts)
        every = list(range(tokenizer.vocabulary_size))
        assert graph.decode(every).numpy().decode() == tokenizer.decode(every)
