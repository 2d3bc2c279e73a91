"""Text as it comes: equal to the tokenizer's, and cut at the first stop string."""

from hypothesis import given
from hypothesis import strategies as st

from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.serving.text import Piece, TextStream, Token, TokenTable

TOKENIZER = Tokenizer.train(["the cat sat on the mat", "naïve café"], 300)
TABLE = TokenTable(TOKENIZER)


def streamed(token_ids: list[int], stops: list[str]) -> tuple[list[Piece], TextStream]:
    stream = TextStream(TABLE, stops)
    pieces = []
    for token_id in token_ids:
        pieces.append(stream.push(token_id, Token(TABLE.text_of(token_id))))
        if stream.stopped:
            return pieces, stream
    return [*pieces, stream.end()], stream


@given(st.lists(st.integers(0, TOKENIZER.vocabulary_size - 1), max_size=40))
def test_the_whole_text_is_that_of_the_tokenizer(token_ids: list[int]) -> None:
    pieces, _ = streamed(token_ids, [])
    assert "".join(piece.text for piece in pieces) == TOKENIZER.decode(token_ids)
    tokens = [token for piece in pieces for token in piece.tokens]
    assert [token.text for token in tokens] == [TABLE.text_of(i) for i in token_ids]


@given(
    st.text("ab ", max_size=30),
    st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3),
)
def test_a_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    pieces, stream = streamed(TOKENIZER.encode(text), stops)
    whole = "".join(piece.text for piece in pieces)
    assert stream.stopped == any(stop in text for stop in stops)
    if stream.stopped:
        assert not any(stop in whole for stop in stops)
        assert any(text[len(whole) :].startswith(stop) for stop in stops)
    assert text.startswith(whole) and (stream.stopped or whole == text)
    # Each token starts in the text that was sent, at the place that it names.
    for token in (token for piece in pieces for token in piece.tokens):
        assert whole[token.offset :].startswith(token.text[: len(whole) - token.offset])


def test_nothing_that_was_sent_is_taken_back() -> None:
    ids = TOKENIZER.encode("a, b, c")
    stream = TextStream(TABLE, [", c"])
    sent = [stream.push(i, Token("")).text for i in ids]
    assert "".join(sent) == "a, b" and stream.stopped


def test_a_character_comes_when_its_last_byte_has_come() -> None:
    ids = TOKENIZER.encode("é") or []
    parts = TOKENIZER.encode("日")
    assert len(parts) == 3
    stream = TextStream(TABLE)
    assert [stream.push(i, Token("")).text for i in parts] == ["", "", "日"]
    stream = TextStream(TABLE)
    assert stream.push(parts[0], Token("")).text == ""
    assert stream.end().text == "\ufffd"
    assert ids


def test_tokens_that_start_with_a_text_are_found() -> None:
    found = {TOKENIZER.decode([i]) for i in TABLE.starting_with("t")}
    assert "t" in found and all(text.startswith("t") for text in found)
