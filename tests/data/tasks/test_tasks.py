"""What holds for every task, and the Curation Corpus."""

import bz2
import gzip
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spdf_keras.config import Config, DecodeConfig, FinetuneConfig
from spdf_keras.data.tasks.curation import read_curation, split_of
from spdf_keras.data.tasks.examples import EncodedPairs, encode_context
from spdf_keras.data.tasks.notices import is_error
from spdf_keras.data.tasks.registry import TASKS, get_task
from spdf_keras.data.tasks.task import PERPLEXITY, Counts, Example, counts
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation.checks import context_room
from spdf_keras.metrics.protocols import PROTOCOLS

TOKENIZER = Tokenizer.train(["the mayor opened the bridge"], 270)


def test_tasks_are_looked_up_by_name() -> None:
    assert list(TASKS) == ["e2e", "webnlg", "dart", "curation"]
    assert all(get_task(name).name == name for name in TASKS)
    file_protocols = {task.file_protocol for task in TASKS.values()} - {None}
    assert file_protocols <= set(PROTOCOLS)
    protocols = {task.protocol for task in TASKS.values()}
    assert protocols <= {*PROTOCOLS, PERPLEXITY}
    with pytest.raises(InputError, match="Unknown task 'xsum'. Known here: e2e, web"):
        get_task("xsum")


def test_naming_the_tasks_loads_nothing_heavy() -> None:
    code = (
        "import sys, spdf_keras.data.tasks.registry\n"
        "print({'tensorflow', 'numpy', 'tokenizers'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert output.stdout.strip() == b"set()"


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_split_and_missing_files_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of train, validation, test. .*split=dev"):
        TASKS[name].read(tmp_path, "dev")
    for split in ("train", "validation", "test"):
        with pytest.raises(InputError, match=f"No .* {split} data in .*: expected "):
            TASKS[name].read(tmp_path, split)


def test_the_csv_of_e2e_goes_before_the_text_files(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(
        "name : A ||It is A . \n\nname : A||A .\r\nname : B||B\x85 .\n"
    )
    examples = TASKS["e2e"].read(tmp_path, "train")
    assert examples == [
        Example("name : A", ("It is A .", "A .")),
        Example("name : B", ("B\x85 .",)),
    ]
    (tmp_path / "e2e").mkdir()
    (tmp_path / "e2e" / "devset.csv").write_text("mr,ref\nname[A],It is A.\n")
    assert TASKS["e2e"].read(tmp_path, "validation")[0].references == ("It is A.",)
    # Never one split of each kind: their references are spaced differently.
    with pytest.raises(InputError, match=r"expected trainset.csv or trainset.csv.gz\."):
        TASKS["e2e"].read(tmp_path, "train")


@pytest.mark.parametrize("line", ["no separator", "||text", "a||", "a||b||c"])
def test_a_malformed_text_line_is_refused_with_its_number(
    tmp_path: Path, line: str
) -> None:
    (tmp_path / "test.txt").write_text(f"a||b\n{line}\n")
    with pytest.raises(InputError, match="test.txt', line 2: a line must be `context"):
        TASKS["e2e"].read(tmp_path, "test")
    (tmp_path / "test.txt").write_text("\n")
    with pytest.raises(InputError, match="test.txt' has no examples"):
        TASKS["e2e"].read(tmp_path, "test")


def test_the_curation_corpus_comes_in_three_layouts(tmp_path: Path) -> None:
    row = '"News {0}.\n\nMore of {0}.",Sum {0}\n'
    (tmp_path / "validation.csv").write_text("article,summary\n" + row.format(1))
    expected = [Example("News 1.\n\nMore of 1.", ("Sum 1",))]
    assert read_curation(tmp_path, "validation") == expected
    inner = tmp_path / "curation"
    inner.mkdir()
    header = "url,headline,article_content,summary,Split\n"
    lines = [f"u,h,News {n}.,Sum {n},{s}\n" for n, s in enumerate(("train", "test"))]
    (inner / "curation.csv").write_text(header + "".join(lines))
    assert read_curation(tmp_path, "test") == [Example("News 1.", ("Sum 1",))]
    assert read_curation(inner, "train") == [Example("News 0.", ("Sum 0",))]


def test_without_a_split_the_article_decides(tmp_path: Path) -> None:
    rows = "".join(f"News {n}.,Sum {n}\n" for n in range(1000))
    file = tmp_path / "curation.csv"
    file.write_text("article,summary\n" + rows + "News 7.,Again\n")
    splits = {s: read_curation(tmp_path, s) for s in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == 1000
    assert len(splits["train"]) == pytest.approx(900, abs=30)  # three deviations
    assert len(splits["test"]) == pytest.approx(50, abs=21)
    (both,) = [e for split in splits.values() for e in split if len(e.references) > 1]
    assert both == Example("News 7.", ("Sum 7", "Again"))
    assert split_of("News 7. ") == split_of("News  7.")


def test_rows_without_an_article_or_a_summary_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("article,summary\n,Sum\nNews,\nNews 2,Sum 2\n")
    reasons = {"rows without an article": 1, "rows without a summary": 1}
    assert counts(read_curation(tmp_path, "train")) == Counts(1, 1, reasons)


def test_an_article_may_be_longer_than_the_csv_module_expects(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("article,summary\n" + 200_000 * "a" + ",Sum\n")
    assert len(read_curation(tmp_path, "train")[0].context) == 200_000


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "must start with a header that has `article`"),
        ("url,summary\n", "header that has `article`.* Received: 'url,summary'"),
        ("article,text\na,b\n", "header that has `article`"),
        ("article,summary\n", r"curation.csv' has no examples\."),
        ("article,summary\na\n", "line 2: a row must have 2 fields .* Received: 1"),
        ("article,summary,split\na,b,dev\n", "line 2: the split must be one of train"),
        ('article,summary\n"a,b\n', "line 2: not a csv row"),
    ],
)
def test_a_malformed_curation_file_is_refused_with_its_line(
    tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "curation.csv").write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_curation(tmp_path, "train")


def test_a_long_context_loses_its_end_and_nothing_else() -> None:
    end = TOKENIZER.end_token_id
    examples = [Example("the mayor " * 20, ("opened",)), Example("bridge", ("the",))]
    article, target = TOKENIZER.encode("the mayor " * 20), TOKENIZER.encode(" opened")
    whole = EncodedPairs.encode(examples, TOKENIZER, 512, cut_context=True)
    assert whole.num_cut == 0
    assert whole.token_ids[0].tolist() == [*article, end, *target, end]
    pairs = EncodedPairs.encode(examples, TOKENIZER, 24, cut_context=True)
    room = 24 - len(target) - 2
    assert pairs.num_cut == 1 and pairs.context_lengths[0] == room + 1
    assert pairs.token_ids[0].tolist() == [*article[:room], end, *target, end]
    assert pairs.token_ids[1].tolist() == whole.token_ids[1].tolist()
    with pytest.raises(
        InputError, match="Example 1 of the task has 87 tokens with its reference 1"
    ):
        EncodedPairs.encode(examples, TOKENIZER, 24)
    with pytest.raises(InputError, match="Example 1 of the task"):
        # The target alone is too long.
        EncodedPairs.encode(examples, TOKENIZER, len(target) + 2, cut_context=True)
    assert encode_context(TOKENIZER, "the mayor " * 20, 9) == [*article[:8], end]


def test_decoding_leaves_the_room_that_fine_tuning_had() -> None:
    config = Config(finetune=FinetuneConfig(sequence_length=512))
    assert context_room(config) == 512 - config.decode.max_new_tokens
    with pytest.raises(InputError, match="max_new_tokens` must leave room.*=511"):
        context_room(
            Config(finetune=config.finetune, decode=DecodeConfig(max_new_tokens=511))
        )


PAGE = "To keep on, choose a plan.\n\nYou have read all that you may this month."
ARTICLES = [
    f"The council of town {n} opened a bridge.\n\nIt is long." for n in range(9)
]


def curation_rows(*articles: str) -> str:
    rows = (f'"{a}",Sum of row {n}\n' for n, a in enumerate(articles))
    return "article_content,summary\n" + "".join(rows)


def test_errors_and_repeated_pages_are_no_articles(tmp_path: Path) -> None:
    junk = ["Exception"] * 5 + [PAGE] * 4 + ["Error 404", "Access denied", " - "]
    (tmp_path / "train.csv").write_text(curation_rows(*ARTICLES, *junk, ARTICLES[0]))
    examples = read_curation(tmp_path, "train")
    assert [example.context for example in examples] == ARTICLES
    # An article that two people summarised is one.
    assert examples[0].references == ("Sum of row 0", "Sum of row 21")
    assert max(len(example.references) for example in examples) == 2
    assert examples.left_out == {
        "rows with an error or a notice for an article": 8,
        "rows with one text for many articles": 4,
    }


def test_a_repeated_page_is_known_in_every_split(tmp_path: Path) -> None:
    page = PAGE.upper().replace("\n\n", " \n")
    for name, articles in (
        ("train", [ARTICLES[0], PAGE, PAGE]),
        ("validation", [ARTICLES[1]]),
        ("test", [ARTICLES[2], page]),
    ):
        rows = curation_rows(*articles).replace("Sum", f"{name} sum")
        (tmp_path / f"{name}.csv").write_text(rows)
    for number, split in enumerate(("train", "validation", "test")):
        (example,) = read_curation(tmp_path, split)
        assert example.context == ARTICLES[number]
    # In one file as well, where rows say their split.
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.csv").unlink()
    lines = [f'"{PAGE}",{s},Sum {s}\n' for s in ("train", "validation", "test")]
    lines += [f'"{ARTICLES[n]}",test,Sum {n}\n' for n in range(2)]
    (tmp_path / "curation.csv").write_text("article,split,summary\n" + "".join(lines))
    assert [e.context for e in read_curation(tmp_path, "test")] == ARTICLES[:2]


def test_a_row_that_is_there_three_times_is_no_page(tmp_path: Path) -> None:
    row = f'"{ARTICLES[0]}",Sum\n'
    (tmp_path / "test.csv").write_text("article,summary\n" + 3 * row)
    assert read_curation(tmp_path, "test")[0].references == ("Sum",) * 3


def test_nothing_but_errors_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(curation_rows("Exception", "Exception"))
    with pytest.raises(InputError, match="no examples; left out: 2 rows with an error"):
        read_curation(tmp_path, "test")


@pytest.mark.parametrize(
    "text",
    [
        *("Exception", "error", "ERROR: Timeout", "None", "nan", "N/A", "-", "…"),
        *("404", "404 Not Found", "HTTP Error 403: Forbidden", "Internal Server Error"),
        "ConnectionError: HTTPSConnectionPool(host='x.com', port=443)",
        "requests.exceptions.ReadTimeout",
        "Article `download()` failed with 404 Client Error: Not Found for url: x",
        "Subscribe to read | Financial Times",
        "To continue reading this article, please register.",
        "Please enable JavaScript and cookies to continue",
        "You don't have permission to access this page on this server.",
        "You have reached your limit of free articles.",
        "This content is for our paying members.",
        "Are you a robot?",
    ],
)
def test_what_a_scraper_leaves_is_an_error(text: str) -> None:
    assert is_error(text)


@pytest.mark.parametrize(
    "text",
    [
        *("News 7.", "Missing girl found in Leeds.", "Error rates fell by 2 %."),
        "300 people were hurt when a bus crashed.",
        "404 workers lost their jobs on Monday, the union said.",
        "Subscribers of the service grew by 4 % in May, to a record.",
        "He must register the car to continue driving, the court said.",
        "The publisher said readers must subscribe to continue reading. "
        + "word " * 60,
    ],
)
def test_a_short_article_is_no_error(text: str) -> None:
    assert not is_error(text)


BLANKS = [
    "article,summary\n\nNews 1,Sum 1\n\n\nNews 2,Sum 2\n\n",
    "\n\narticle,summary\r\n  \r\nNews 1,Sum 1\r\n,\r\nNews 2,Sum 2\r\n\r\n\r\n",
    "\ufeffarticle,summary\r\r\nNews 1,Sum 1\r\r\nNews 2,Sum 2\r\r\n",
    "article;summary\nNews 1;Sum 1\n;\nNews 2;Sum 2",
    '"article";"summary"\n"News 1";"Sum 1"\n"News 2";"Sum 2"\n',
    "summary\tid\tArticle\nSum 1\t1\tNews 1\nSum 2\t2\tNews 2\n",
    '"article","summary"\r"News 1","Sum 1"\r"News 2","Sum 2"\r',
]


@pytest.mark.parametrize("content", BLANKS)
def test_blank_lines_and_other_separators_of_a_csv_change_nothing(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "test.csv").write_bytes(content.encode())
    examples = read_curation(tmp_path, "test")
    assert examples == [Example("News 1", ("Sum 1",)), Example("News 2", ("Sum 2",))]
    assert examples.left_out == {}


@pytest.mark.parametrize(
    "content",
    [
        "mr,ref\n\nname[B],Sum 1\n \nname[A],Sum 2\n\n\n",
        "\ufeffMR,Ref\r\r\nname[B],Sum 1\r\r\nname[A],Sum 2\r\r\n,\r\r\n",
        "mr;ref\nname[B];Sum 1\n;\nname[A];Sum 2",
        "mr\tref\nname[B]\tSum 1\n\nname[A]\tSum 2\n",
        '\n"mr","ref"\r"name[B]","Sum 1"\r\r"name[A]","Sum 2"\r',
    ],
)
def test_the_csv_of_e2e_takes_them_too(tmp_path: Path, content: str) -> None:
    (tmp_path / "devset.csv").write_bytes(content.encode())
    assert TASKS["e2e"].read(tmp_path, "validation") == [
        Example("name : B", ("Sum 1",)),
        Example("name : A", ("Sum 2",)),
    ]


def test_the_line_of_a_malformed_row_counts_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "devset.csv").write_bytes(
        b'mr,ref\r\r\n\r\r\n"name[A],\r\narea[B]",x\r\r\nname[A]\r\r\n'
    )
    with pytest.raises(InputError, match="devset.csv', line 5: a row must have"):
        TASKS["e2e"].read(tmp_path, "validation")


@pytest.mark.parametrize(
    "content",
    [
        b"'mr','ref'\n'name[A]','It is.'\n",
        b"name[A]||It is A.\n",
        b"mr|ref\nname[A]|It is A.\n",
        b'{"mr": "name[A]", "ref": "It is."}\n',
        "mr,ref\nname[A],It is.\n".encode("utf-16"),
        b'mr,ref\n"name[A]",It "is" \\"A\\".\n"a" b,c\n',
    ],
)
def test_a_csv_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "devset.csv").write_bytes(content)
    with pytest.raises(InputError, match="devset.csv'"):
        TASKS["e2e"].read(tmp_path, "validation")


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("DevSet.CSV", bytes),
        ("devset.csv.bz2", bz2.compress),
        ("devset.csv.XZ", lzma.compress),
        ("devset.csv", gzip.compress),
    ],
)
def test_task_files_are_found_compressed_and_in_any_case(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(compress(b"mr,ref\nname[A],It is A.\n"))
    (example,) = TASKS["e2e"].read(tmp_path, "validation")
    assert example == Example("name : A", ("It is A.",))
