"""What holds for every task, and the Curation Corpus."""

import subprocess
import sys
from pathlib import Path

import pytest

from spdf_keras.config import Config, DecodeConfig, FinetuneConfig
from spdf_keras.data.tasks.curation import read_curation, split_of
from spdf_keras.data.tasks.examples import EncodedPairs, encode_context
from spdf_keras.data.tasks.registry import TASKS, get_task
from spdf_keras.data.tasks.task import Counts, Example, counts
from spdf_keras.data.tokenizer import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation import context_room

TOKENIZER = Tokenizer.train(["the mayor opened the bridge"], 270)


def test_tasks_are_looked_up_by_name() -> None:
    assert list(TASKS) == ["e2e", "webnlg", "dart", "curation"]
    assert all(get_task(name).name == name for name in TASKS)
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
        ("article,summary,split\na,b,dev\n", "line 2: `split` must be one of train"),
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
