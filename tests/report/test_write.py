import argparse
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras.cli import main
from spdf_keras.commands import report as command
from spdf_keras.errors import InputError
from spdf_keras.folders import LOCK
from spdf_keras.locks import PAUSE_SECONDS, lock
from spdf_keras.report.page.document import (
    Bullets,
    Document,
    Paragraph,
    Row,
    Section,
    Table,
    code,
)
from spdf_keras.report.page.html import to_html
from spdf_keras.report.page.markdown import to_markdown
from spdf_keras.report.write import Report, write_report
from spdf_keras.study.study import Study

from .conftest import CONFIG, FakeRuns

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Reads a page, and fails where tags are not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def values(self, name: str) -> list[str]:
        return [a[name] or "" for _, a in self.tags if name in a]


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, as a viewer splits them."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            tables[-1].append(re.split(r"(?<!\\)\|", line)[1:-1])
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


@pytest.fixture(scope="module")
def report(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report([study], tmp_path_factory.mktemp("out") / "deep", made=WHEN)


def test_the_page_is_whole_and_needs_nothing_else(report: Report) -> None:
    text = report.html.read_text("utf-8")
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert {"table", "svg", "nav", "h2"} <= tags
    assert not tags & {"script", "link", "iframe", "img", "object", "image"}
    assert all(link.startswith("#") for link in page.values("href"))
    assert not page.values("src") and not page.values("xlink:href")
    assert "http" not in text and "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_link_of_the_page_leads_to_one_place(report: Report) -> None:
    page = Page(report.html.read_text("utf-8"))
    names = page.values("id")
    assert len(names) == len(set(names))
    assert {link[1:] for link in page.values("href")} <= set(names)


def test_figures_take_the_colours_of_the_page(report: Report) -> None:
    text = report.html.read_text("utf-8")
    assert "prefers-color-scheme: dark" in text and "currentColor" in text
    figures = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert len(figures) == len(report.pictures)
    assert not any("#1c1c21" in figure or "#d4d4da" in figure for figure in figures)


def test_what_a_model_wrote_is_shown_and_not_obeyed(report: Report) -> None:
    page = Page(report.html.read_text("utf-8"))
    assert "Aromi <b>of e2e</b> is *central* | nice." in page.texts
    assert "b" not in {tag for tag, _ in page.tags}
    markdown = report.markdown.read_text("utf-8")
    assert r"Aromi \<b\>of e2e\</b\> is \*central\* \| nice." in markdown


def test_the_markdown_has_tables_of_equal_columns_and_its_pictures(
    report: Report,
) -> None:
    text = report.markdown.read_text("utf-8")
    tables = markdown_tables(text)
    assert len(tables) > 8
    for table in tables:
        assert len({len(row) for row in table}) == 1, table[0]
        assert all(set(cell.strip()) <= set("-:") for cell in table[1])
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert [path.name for path in report.pictures] == shown
    for picture in report.pictures:
        assert picture.parent == report.markdown.parent
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_contents_of_the_markdown_name_its_sections(report: Report) -> None:
    text = report.markdown.read_text("utf-8")
    titles = re.findall(r"^## (.+)$", text, flags=re.M)
    assert titles[0] == "Summary" and "Table 4: E2E, test" in titles
    assert re.findall(r"^- \[(.+)\]\(#", text, flags=re.M) == titles


def test_both_pages_say_the_same(report: Report) -> None:
    page = Page(report.html.read_text("utf-8"))
    markdown = report.markdown.read_text("utf-8").replace("\\", "")
    for cell in ("67.00 ± 1.00 (3)", "67.49 ± 0.60", "60.00 ± 0.01 (3)"):
        # A number is in pieces where it may break.
        assert cell in "".join(page.texts) and cell in markdown
    kinds = {"pretrain": "spdf-keras pretrain s.toml --out s75-2/pretrain --set"}
    assert any(kinds["pretrain"] in text for text in page.texts)
    assert kinds["pretrain"] in markdown


def test_no_absolute_path_is_in_a_report(report: Report, study: Path) -> None:
    for file in (report.html, report.markdown):
        text = file.read_text("utf-8")
        assert str(study) not in text and str(study.parent) not in text
        assert "/data/e2e" not in text and ".../e2e" in text


def test_equal_runs_give_equal_files_but_for_the_time(
    runs: FakeRuns, tmp_path: Path
) -> None:
    folders = [runs.pretrained("a", 0.5), runs.finetuned("b", 0.5)]
    runs.evaluated(folders[1])
    first = write_report(folders, tmp_path / "1", made=WHEN)
    write_report(folders[::-1], tmp_path / "2", made=datetime(2027, 1, 1, tzinfo=UTC))
    for file in (first.html, first.markdown, first.table, *first.pictures):
        old = file.read_bytes().replace(b"2026-01-02 03:04", b"2027-01-01 00:00")
        assert old == (tmp_path / "2" / file.name).read_bytes(), file.name


@pytest.mark.usefixtures("blank_pictures")
def test_nothing_unfinished_is_left_and_other_files_stay(
    runs: FakeRuns, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    folder = runs.pretrained("a", 0.5)
    write_report([folder], out)
    suffixes = {path.suffix for path in out.iterdir()}
    assert suffixes == {".txt", ".png", ".md", ".html", ".csv"}
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("blank_pictures")
def test_a_study_prints_its_report_also_where_another_process_writes_one(
    runs: FakeRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, config = runs.pretrained("a", 0.5), tmp_path / "config.toml"
    config.write_text("[study]\nseeds = [0]\n")
    out = folder / "report"
    out.mkdir()
    stack, waited = ExitStack(), []
    stack.enter_context(lock(out / LOCK, "The folder"))

    def leave(seconds: float) -> None:
        if seconds == PAUSE_SECONDS:
            waited.append(seconds)
            assert not (out / "report.md").exists()
            stack.close()

    monkeypatch.setattr("time.sleep", leave)
    monkeypatch.setattr(Study, "__init__", lambda *_: None)
    monkeypatch.setattr(Study, "run", lambda _: None)
    arguments = ["study", str(config), "--data", str(tmp_path), "--out", str(folder)]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(printed["runs"]) == ["1"] and waited == [PAUSE_SECONDS]
    assert Path(printed["table"]).read_bytes() == (out / "runs.csv").read_bytes()
    assert not (out / LOCK).exists()


@pytest.mark.usefixtures("blank_pictures")
def test_a_refused_report_leaves_the_one_before(runs: FakeRuns, tmp_path: Path) -> None:
    folder = runs.finetuned("a")
    evaluation = runs.evaluated(folder)
    before = write_report([folder], tmp_path / "out").html.read_text()
    evaluation.write_text("{")
    with pytest.raises(InputError, match="e2e_test.json"):
        write_report([folder], tmp_path / "out")
    assert (tmp_path / "out" / "report.html").read_text() == before
    with pytest.raises(InputError, match="must name a folder"):
        write_report([folder], folder / "config.toml")


@pytest.mark.usefixtures("blank_pictures")
def test_pieces_that_are_missing_are_named(runs: FakeRuns, tmp_path: Path) -> None:
    runs.pretrained("a", steps=10, validation=False, provenance=False)
    shutil.rmtree(runs.finetuned("b", 0.5) / "checkpoints")
    runs.settings("c", CONFIG)
    folder = runs.finetuned("d", 0.75, seed=1)
    runs.evaluated(
        folder, scores={"nist": None}, errors={"nist": "It divides by zero."}
    )
    text = write_report([runs.root], tmp_path).markdown.read_text()
    text = text.replace("\\", "")
    for sentence in (
        "command not recorded",
        "the validation loss was not measured",
        "pre-training is at step 10 of 40",
        "there is no checkpoint",
        "it has not done a step",
        "fine-tuning is not finished",
        "it has not been evaluated: use `spdf-keras evaluate`",
        "no nist on e2e, test: It divides by zero.",
        "one seed each, so there is no deviation",
    ):
        assert sentence in text, sentence
    Page((tmp_path / "report.html").read_text("utf-8"))


@pytest.mark.usefixtures("blank_pictures")
def test_pretrainings_of_unlike_recipes_are_named(
    runs: FakeRuns, tmp_path: Path
) -> None:
    hot = dataclasses.replace(CONFIG.train, learning_rate=0.1, validate_every=3)
    runs.pretrained("a")
    runs.pretrained("b", 0.5, config=dataclasses.replace(CONFIG, train=hot))
    text = write_report([runs.root], tmp_path).markdown.read_text("utf-8")
    assert "GPT, 8.1k: pre-trainings differ in `train.learning_rate` too" in text


@pytest.mark.usefixtures("blank_pictures")
def test_names_of_tasks_are_no_paths(runs: FakeRuns, tmp_path: Path) -> None:
    folder = runs.finetuned("a", task="../own")
    file = runs.evaluated(folder, "e2e", "x")
    document = json.loads(file.read_text())
    file.write_text(
        json.dumps(
            {**document, "task": "../own", "split": "../x", "scores": {"a": 1.0}}
        )
    )
    report = write_report([folder], tmp_path / "out")
    assert {path.parent for path in report.pictures} == {tmp_path / "out"}
    assert all(path.is_file() for path in report.pictures)


@pytest.mark.usefixtures("blank_pictures")
def test_an_evaluation_without_scores_has_a_report(
    runs: FakeRuns, tmp_path: Path
) -> None:
    folder = runs.finetuned("a", task="own")
    runs.evaluated(folder, "own", scores={})
    report = write_report([folder], tmp_path)
    Page(report.html.read_text("utf-8"))


def test_a_run_that_has_done_nothing_has_a_report(
    runs: FakeRuns, tmp_path: Path
) -> None:
    runs.settings("a", CONFIG)
    report = write_report([runs.root], tmp_path)
    assert "it has not done a step" in report.markdown.read_text("utf-8")
    Page(report.html.read_text("utf-8"))


@settings(max_examples=50)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_survives_in_both_pages(first: str, second: str) -> None:
    table = Table(("a|b", "c"), (Row((first, second), quoted=True),), second, 2)
    blocks = (table, Paragraph(f"see {code(first)}"), Bullets((code(second),)))
    document = Document(first, "now", (Section(second, blocks),))
    page = Page(to_html(document))
    assert sum(tag == "td" for tag, _ in page.tags) == 1
    (rows,) = markdown_tables(to_markdown(document))
    assert [len(row) for row in rows] == [2, 2, 2]


def run_command(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(arguments))


@pytest.mark.usefixtures("blank_pictures")
def test_the_command_tells_where_the_files_are_and_the_main_table(
    runs: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, bleu in enumerate((60.0, 62.0)):
        parts = {"seen": {"bleu": 70.0}}
        folder = runs.finetuned(f"s{seed}", 0.5, seed, "webnlg")
        runs.evaluated(folder, "webnlg", scores={"bleu": bleu}, parts=parts)
    out = tmp_path / "out"
    run_command(str(runs.root), "--out", str(out), "--title", "A <study>", "--json")
    shown = capsys.readouterr().out
    assert str(out / "report.html") in shown and "61.00 ± 1.41 (2)" in shown
    document = json.loads(shown.splitlines()[-1])
    assert Path(document["html"]).is_file() and len(document["runs"]) == 2
    (group,) = document["scores"]
    assert (group["task"], group["sparsity"], group["tuning"]) == (
        *("webnlg", 0.5, "dense"),
    )
    assert group["all"]["bleu"] == {"mean": 61.0, "std": 2**0.5, "count": 2}
    assert group["seen"]["bleu"]["mean"] == 70.0
    assert "<title>A &lt;study&gt;</title>" in (out / "report.html").read_text("utf-8")


def test_a_report_does_without_tensorflow(study: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from spdf_keras.report.write import write_report\n"
        f"write_report([{str(study / 's75-0' / 'pretrain')!r}], {str(tmp_path)!r})\n"
        "print('tensorflow' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
