import pytest

from spdf_keras.metrics.tokenizers.mteval import (
    lower_ascii,
    tokenize_detok,
    tokenize_mteval,
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
    assert tokenize_detok(text) == tokens.split()
    assert tokenize_mteval(text) == lower_ascii(tokens).split()
    assert tokenize_python(text) == tokens.lower().split()


def test_the_programs_differ_in_case_blanks_and_empty_texts() -> None:
    assert (tokenize_mteval("ÉA"), tokenize_python("ÉA")) == (["Éa"], ["éa"])
    assert (tokenize_mteval(" "), tokenize_python(" ")) == ([], [""])


# White space of ASCII, separators that are white space in Python, white space of
# Unicode, and characters that look blank but are none anywhere.
@pytest.mark.parametrize(
    ("blanks", "splits"),
    [
        ("\t\n\x0b\x0c\r ", (True, True, True)),
        ("\x1c\x1d\x1e\x1f", (False, False, True)),
        ("\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000", (False, True, True)),
        ("\u180e\u200b\ufeff", (False, False, False)),
    ],
)
def test_each_program_has_its_own_white_space(
    blanks: str, splits: tuple[bool, ...]
) -> None:
    programs = (tokenize_detok, tokenize_mteval, tokenize_python)
    for blank in blanks:
        for tokenize, is_split in zip(programs, splits, strict=True):
            text = f"a{blank}b"
            assert tokenize(text) == (["a", "b"] if is_split else [text])
        assert words_in_bytes(f"a{blank}b") == tokenize_detok(f"a{blank}b")


def test_an_entity_must_be_lower_case() -> None:
    assert tokenize_mteval("&QUOT;") == ["&", "quot", ";"]
    assert lower_ascii("ÀB[Z]") == "Àb[z]"
