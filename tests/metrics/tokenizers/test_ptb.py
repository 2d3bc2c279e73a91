import gzip
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras.errors import InputError
from spdf_keras.metrics import archives
from spdf_keras.metrics.archives import official_file, read_member
from spdf_keras.metrics.tokenizers.jflex import read_scanner
from spdf_keras.metrics.tokenizers.ptb import (
    ARCHIVE,
    LEXER,
    PUNCTUATION,
    START,
    ptb_tokenize,
    ptb_tokenize_lines,
)


def read_lines(file: Path) -> list[str]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return stream.read().split("\n")


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("e2e_dev_template", "hypotheses"),
        ("e2e_dev_template", "references"),
        ("e2e_dev_truncated", "hypotheses"),
        ("e2e_lora_lastref", "hypotheses"),
        ("e2e_test_sheff2", "hypotheses"),
        ("e2e_test_tgen", "hypotheses"),
        ("e2e_test_tgen", "references"),
        ("e2e_test_zhaw2", "hypotheses"),
        ("e2e_tgen_shuffled", "hypotheses"),
        ("e2e_tiny", "hypotheses"),
        ("e2e_tiny", "references"),
    ],
)
def test_texts_are_tokenised_as_by_the_official_program(
    real_data: Path, case: str, name: str
) -> None:
    folder = real_data / "scorer_cases" / case
    texts = read_lines(folder / f"{name}.txt.gz")
    assert ptb_tokenize_lines(texts) == read_lines(folder / f"{name}.ptb.txt.gz")


# The Java program gives these tokens for each line in front of an empty one.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", ""),
        ("?! ... --- ``''", "?!"),
        ("We can't, cannot, gonna.", "we ca n't can not gon na"),
        (
            "It's the dogs' and John's, y'all'd say",
            "it 's the dogs and john 's y' all 'd say",
        ),
        ("£20-25, €5, 10¢, US$3.50", "# 20-25 $ 5 10 cents us$ 3.50"),
        ("5 7/8 of ½ on 12/25/1999", "5\u00a07/8 of 1/2 on 12/25/1999"),
        (
            "(555) 123-4567 {x} [y]",
            "-lrb-555-rrb-\u00a0123-4567 -lcb- x -rcb- -lsb- y -rsb-",
        ),
        ("Mr. Li of Acme Inc. in the U.S.", "mr. li of acme inc. in the u.s."),
        ("see http://a.org/b?c=1, a.b@c.de", "see http://a.org/b?c=1 a.b@c.de"),
        ("“Café” — ‘naïve’…", "café naïve"),
        ("AT&amp;T &lt;b&gt; <i>", "at&t < b > <i>"),
        ("co\u00adop 😀 日本", "coop 日本"),
    ],
)
def test_a_text_becomes_these_tokens(text: str, tokens: str) -> None:
    assert ptb_tokenize(text) == tokens


def test_the_next_line_can_decide_about_the_last_period() -> None:
    assert ptb_tokenize_lines(["at 8.3 m.", "The end"])[0] == "at 8.3 m"
    assert ptb_tokenize_lines(["at 8.3 m.", "An end."])[0] == "at 8.3 m"
    assert ptb_tokenize_lines(["at 8.3 m.", "no end"])[0] == "at 8.3 m."


@pytest.mark.parametrize("gap", ["\n", "\r\n", "\r", "\u2028", "\x0b", "\x85"])
def test_a_line_break_within_a_text_counts_as_a_blank(gap: str) -> None:
    assert ptb_tokenize_lines([f"a{gap}b", "c"]) == ["a b", "c"]


@settings(deadline=None)  # the first example reads the tables
@given(st.lists(st.text(max_size=30), max_size=4))
def test_there_is_a_line_per_text_in_lower_case_without_punctuation(
    texts: list[str],
) -> None:
    lines = ptb_tokenize_lines(texts)
    assert len(lines) == len(texts)
    for line in lines:
        assert line == line.lower()
        assert not PUNCTUATION & set(line.split(" "))


def test_without_its_tables_the_way_out_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archives, "find_spec", lambda name: None)
    official_file.cache_clear()
    with pytest.raises(InputError, match=r"pip install pycocoevalcap==1\.2$"):
        official_file("meteor/meteor-1.5.jar")
    monkeypatch.undo()
    assert official_file("meteor/meteor-1.5.jar").is_file()


def test_a_damaged_archive_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.jar").write_bytes(b"not a jar")
    monkeypatch.setattr(archives, "official_file", lambda path: tmp_path / path)
    with pytest.raises(InputError, match="must have a whole member 'x'"):
        read_member("a.jar", "x")


# The Java program begins a new line at each of these characters.
BREAKS = "[\r\n\x0b\x0c\x85\u2028\u2029]"

HARD = [
    *"aAzZ09 .,-'\"$£€#%&/()[]{}<>@_:;!?…–—‘’“”`«»éßİ日½⅓²°😀\t~*+=\\|^\u00ad\u00a0",
    *("U.S.", "Mr.", "Inc. ", "etc. ", "The ", "'s", "n't", "can't", "gonna", "I'm"),
    *("&amp;", "&lt;", "http://", "www.a.com", "a@b.c", ":-)", "1/2", "5 7/8", "1,000"),
    *("(555) 123-4567", "12/25/1999", "'90s", "pro-", "<b>", "--", ". . .", "#tag"),
    *("p.m. ", "Ph.D. ", "AT&T", "O'Neil", "US$", "20-25", "'twas", "X. ", "ﬁ"),
]


def reached_states() -> list[str]:
    """Gives a short text for each state that the machine can come to."""
    scanner = read_scanner(ARCHIVE, LEXER)
    letters = [*"ax1 .'-&;", *map(chr, range(33, 0xD800)), *map(chr, range(32))]
    by_kind: dict[int, str] = {}
    for letter in letters:
        by_kind.setdefault(int(scanner.kinds[ord(letter)]), letter)
    found, waiting = {START: ""}, [START]
    for state in waiting:
        for kind, letter in by_kind.items():
            following = scanner.moves[scanner.rows[state] + kind]
            if following >= 0 and following not in found:
                found[following] = found[state] + letter
                waiting.append(following)
    return list(found.values())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="the reference is a Java program")
def test_texts_from_all_states_are_tokenised_as_by_the_java_program(
    tmp_path: Path,
) -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices(HARD, k=rng.randint(1, 25))) for _ in range(20_000)]
    states = [re.sub(BREAKS, " ", text) for text in reached_states()]
    assert len(states) > 3000
    texts += states
    for end in (" ", "a", ".", ",", "'", "The ", " The x"):
        texts += [text + end for text in states]
    (tmp_path / "in").write_text("\n".join(texts), "utf-8", newline="")
    command = ["java", "-cp", str(official_file(ARCHIVE))]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    command.append(str(tmp_path / "in"))
    out = subprocess.run(command, capture_output=True, check=True)
    lines = out.stdout.decode().split("\n")
    expected = [
        " ".join(
            token for token in line.rstrip().split(" ") if token not in PUNCTUATION
        )
        for line in lines
    ]
    assert ptb_tokenize_lines(texts) == expected
