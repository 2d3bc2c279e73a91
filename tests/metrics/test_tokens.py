import pytest

from spdf_keras.metrics.tokens import (
    lower_ascii,
    tokenize_mteval,
    tokenize_perl,
    tokenize_python,
    words_in_bytes,
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It costs £20-£25, near Café X.", "It costs £20 - £25 , near Café X ."),
        ("a.b 1.5 1,000 .5 5. x,", "a . b 1.5 1,000 . 5 5 . x ,"),
        ("(a) [b] a_b 3/4 don't", "( a ) [ b ] a _ b 3 / 4 don't"),
        ("AT&amp;T &quot;x&quot; <skipped>y", 'AT & T " x " y'),
        ("a,,b", "a , , b"),
    ],
)
def test_punctuation_is_separated(text: str, tokens: str) -> None:
    assert tokenize_perl(text) == tokens.split()
    assert tokenize_python(text) == tokens.lower().split()


def test_the_programs_differ_in_case_blanks_and_empty_texts() -> None:
    assert (tokenize_mteval("ÉA"), tokenize_python("ÉA")) == (["Éa"], ["éa"])
    assert (tokenize_perl("a\x1cb"), tokenize_python("a\x1cb")) == (
        ["a\x1cb"],
        ["a", "b"],
    )
    assert (tokenize_perl(" "), tokenize_python(" ")) == ([], [""])
    assert tokenize_perl("a\u00a0b\u2028c") == ["a", "b", "c"]
    assert words_in_bytes("a\u00a0b c\td") == ["a\u00a0b", "c", "d"]


def test_an_entity_must_be_lower_case() -> None:
    assert tokenize_mteval("&QUOT;") == ["&", "quot", ";"]
    assert lower_ascii("ÀB[Z]") == "Àb[z]"
