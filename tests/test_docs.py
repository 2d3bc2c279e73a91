"""The pages: their commands parse, their Python runs, their errors are the code's.

What `make docs` checks needs MkDocs and is not repeated here: links, anchors, and that
the names of the Python reference exist.
"""

import ast
import dataclasses
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.cli import COMMANDS, build_parser
from spdf_keras.config import Config, TrainConfig

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "spdf_keras"
PAGES = sorted(
    page
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if page.name != "report.md"  # what `spdf-keras report` and `quickstart` wrote
)


def module_of(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(file, ROOT / "docs" / f"{file}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = module_of("reference")


CONFIGS = sorted((ROOT / "configs").glob("*.toml"))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands_of(page: Path) -> list[str]:
    """The lines that start with `command`, with those that they go on in."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    lines = [line.lstrip("# ").strip() for line in text.splitlines()]
    return [line for line in lines if line.startswith("spdf-keras ")]


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=name_of)
def test_the_commands_of_a_page_are_commands(page: Path) -> None:
    for command in commands_of(page):
        arguments = shlex.split(command, comments=True)[1:]
        if arguments[:2] == ["benchmark", "matmul"]:
            arguments[:2] = ["benchmark matmul"]
        build_parser().parse_args(arguments)
        for argument in arguments:
            if argument.startswith("configs/"):
                assert (ROOT / argument).is_file()


def test_the_pages_show_every_command() -> None:
    shown = [command for page in PAGES for command in commands_of(page)]
    assert len(shown) > 40
    for name in COMMANDS:
        assert any(line.startswith(f"spdf-keras {name} ") for line in shown), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_scripts_of_a_page_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    for script in re.findall(r"^ +(?:\S*/)?python (\S+\.py)", text, re.M):
        folder = PACKAGE if script.startswith("export/") else ROOT
        assert (folder / script).is_file()


def blocks() -> Iterator[Any]:
    """The Python blocks of all pages; the fast run keeps the two longest paths."""
    for page in PAGES:
        slow = page.stem not in ("getting_started", "prepare")
        text = page.read_text("utf-8")
        for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(code, id=name_of(page), marks=marks)


@pytest.mark.parametrize("code", list(blocks()))
def test_the_python_of_a_page_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "a page", "exec"), {})
    if "sparse.tflite" in code:
        assert (tmp_path / "sparse.tflite").stat().st_size < 3e6


def test_the_quickstart_has_the_same_figures_everywhere() -> None:
    rows = [
        re.findall(r"^\| \d+% \|.*", (ROOT / page).read_text("utf-8"), re.M)
        for page in ("README.md", "docs/getting_started.md")
    ]
    assert len(rows[0]) == 2 and rows[0] == rows[1]
    config = (ROOT / "configs" / "quickstart.toml").read_text("utf-8")
    for row in rows[0]:
        sparsity, _, _, _, _, bleu, *_ = (cell.strip() for cell in row.split("|")[1:])
        assert f"{bleu} at {sparsity.rstrip('%')} %" in config


def test_the_figures_of_the_quickstart_on_real_data_are_those_of_its_report() -> None:
    report = ROOT / "docs" / "results" / "quickstart_e2e" / "report.md"
    rows = re.findall(r"^\| (\d+)% \|.*", report.read_text("utf-8"), re.M)
    assert rows == ["0", "75"]
    bleu = [
        row.split("|")[5].strip()
        for row in report.read_text("utf-8").splitlines()
        if re.match(r"\| \d+% ", row)
    ]
    page = (ROOT / "docs" / "getting_started.md").read_text("utf-8")
    config = (ROOT / "configs" / "quickstart_e2e.toml").read_text("utf-8")
    assert f"BLEU {bleu[0]} dense and {bleu[1]} after" in page
    assert f"{bleu[0]} at 0 %, {bleu[1]} at 75 %" in config


def templates() -> Iterator[list[str]]:
    """Every text of the code in parts; between two parts is a value."""
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE / "export").rglob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [""]
                for value in node.values:
                    if isinstance(value, ast.Constant):
                        parts[-1] += str(value.value)
                    else:
                        parts.append("")
                yield parts
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield [node.value]


def test_the_errors_in_the_questions_are_those_of_the_code() -> None:
    """Each error is one text of the code, with values at its places for them."""
    text = (ROOT / "docs" / "faq.md").read_text("utf-8")
    errors = re.findall(r"^```text\n(.*)\n```", text, re.M)
    assert len(errors) > 20
    known = [(sum(map(len, parts)), parts) for parts in templates()]

    def is_known(error: str) -> bool:
        return any(
            re.fullmatch(".*?".join(map(re.escape, parts)), error)
            for length, parts in known
            if length > 0.38 * len(error)
        )

    unknown = [error for error in errors if not is_known(error)]
    assert not unknown, "\n".join(unknown)


def test_the_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", text)
    local = [a or b for a, b in targets if not (a or b).startswith("https://")]
    assert len(local) > 20
    for target in local:
        assert (ROOT / target).exists(), target


def test_the_pages_that_the_code_names_are_there() -> None:
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE / "export").rglob("*.py")]
    named = {
        page
        for file in files
        for page in re.findall(r"\bdocs/[\w/]+\.md", file.read_text("utf-8"))
    }
    assert named and all((ROOT / page).is_file() for page in named)


def test_every_public_name_is_in_the_reference_and_has_a_docstring() -> None:
    listed = {name for _, _, names in reference.PYTHON.values() for name in names}
    for package in ("spdf_keras", "spdf_keras.export"):
        for name in importlib.import_module(package).__all__:
            assert name == "__version__" or f"{package}.{name}" in listed
    for identifier in listed - {"spdf_keras.PRESETS"}:
        module, name = identifier.rsplit(".", 1)
        assert getattr(importlib.import_module(module), name).__doc__


def test_every_option_of_every_command_is_described() -> None:
    page = reference.commands()
    for name, parser in reference.subparsers().items():
        assert f"\n## {name}\n" in page
        for flags, text in reference.options(parser):
            assert text and f"`{flags}`\n:   {text}" in page


def test_every_setting_is_described() -> None:
    page = reference.settings()
    for section in dataclasses.fields(Config):
        table: Any = section.type
        described = reference.attributes(table)
        for setting in dataclasses.fields(table):
            assert len(described[setting.name]) > 10
            assert f". {described[setting.name]}" in page
    inherited = reference.attributes(TrainConfig)["micro_batches"]
    # [train] and [finetune] inherit it.
    assert page.count(f"`micro_batches`\n:   *int*, default `1`. {inherited}") == 2
    assert '*str*, default `"float32"`.' in page
    assert "default `[0.0, 0.5, 0.75]`" in page


def test_the_presets_are_those_of_the_paper() -> None:
    page = reference.presets()
    assert "| `gpt3_xl` | 1,315.7M | 24 x 2,048 | 16 | 2,048 | 50,257 |" in page
    assert "| `gpt2_small` | 256 | 0.0006 |" in page
