"""`benchmarks/README.md` names every benchmark, with a command that is accepted."""

import argparse
import ast
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.cli import main

FOLDER = Path(__file__).parents[2] / "benchmarks"
ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in (FOLDER / "README.md").read_text("utf-8").splitlines()
    if line.startswith("|") and "`" in line
]
COMMANDS = [re.findall("`((?:python|spdf-keras) .*?)`", " ".join(row)) for row in ROWS]
PROGRAMS = sorted(FOLDER.glob("*.py"))


class ParsedError(Exception):
    """The command line was accepted."""


def docstring(program: Path) -> str:
    return ast.get_docstring(ast.parse(program.read_text("utf-8"))) or ""


def test_every_program_has_a_row_and_every_row_a_program() -> None:
    linked = [re.fullmatch(r"\[(.*)\]\((.*)\)", row[0]) for row in ROWS]
    names = {match[2] for match in linked if match}
    assert names == {program.name for program in PROGRAMS}
    assert all(match[1] == match[2] for match in linked if match)
    assert all(len(commands) == 1 for commands in COMMANDS)


def test_the_page_of_every_row_exists() -> None:
    pages = [re.search(r"\]\(([^)]*\.md)\)$", row[-1]) for row in ROWS]
    assert all(page and (FOLDER / page[1]).is_file() for page in pages)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_asks_the_question_of_its_row(program: Path) -> None:
    question, blank, command = docstring(program).splitlines()[:3]
    assert question.endswith("?") and not blank
    assert command.startswith(f"    python benchmarks/{program.name}")
    rows = [row for row in ROWS if f"({program.name})" in row[0]]
    assert {row[1] for row in rows} == {question}
    for row in rows:
        assert f"`python benchmarks/{program.name}" in row[2]


@pytest.mark.parametrize("commands", COMMANDS, ids=lambda commands: commands[0])
def test_the_command_of_a_row_is_accepted(
    commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *arguments: Any) -> None:
        parse_args(self, *arguments)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    program, *arguments = shlex.split(commands[0])
    if program == "spdf-keras":
        with pytest.raises(ParsedError):
            main(arguments)
        return
    path = FOLDER.parent / arguments.pop(0)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ParsedError):
        module.main()
