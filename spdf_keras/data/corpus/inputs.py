"""The files of a corpus: those that the given names stand for, and their forms."""

import glob
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from spdf_keras.data.corpus.forms import (
    HEAD_BYTES,
    JSON_LINES,
    STRUCTURED,
    TEXTS,
    ending,
    form_of_head,
    head_of,
    why_not_text,
)
from spdf_keras.data.corpus.lines import split_lines
from spdf_keras.data.corpus.listing import LeftOut, files_under
from spdf_keras.errors import InputError

_IN_FOLDERS = (*JSON_LINES, *TEXTS)


class Inputs(list[Path]):
    """The files of a corpus, and what was found beside them.

    Attributes:
        left_out: How many files of folders and patterns are not read, by the
            reason, and the first of them: `{"hidden": {"count": 2, "first": ...}}`.
    """

    def __init__(self, files: Iterable[Path], left_out: LeftOut) -> None:
        super().__init__(files)
        self.left_out = left_out


def find_inputs(
    names: Iterable[str | Path],
    leave_out: Sequence[Path] = (),
    text_key: str = "text",
) -> Inputs:
    """The files that names stand for, in the order in which they are read.

    Args:
        names: Files; folders, for the JSON lines and `.txt` files under them,
            compressed or not, sorted by path; patterns such as `data/**/*.zst`. Under
            a folder, files with another ending are read if their content is JSON lines
            with a text. Hidden files are read where a name asks for them.
        leave_out: Folders whose files are no input, such as the output folder.
        text_key: The key of a document in JSON lines.

    Raises:
        InputError: If a name stands for no file, a file is given twice, or its form
            does not show what a document is.
    """
    outside = [folder.absolute() for folder in leave_out]
    inputs: dict[Path, Path] = {}
    left_out = LeftOut()

    def is_outside(path: Path) -> bool:
        # Writing the output may put hidden files beside its folder, too.
        return any(
            path.is_relative_to(folder)
            or (
                path.parent == folder.parent and path.name.startswith(f".{folder.name}")
            )
            for folder in outside
        )

    for name in names:
        files = [
            file
            for file in _files(Path(name), left_out, is_outside, text_key)
            if not is_outside(file)
        ]
        if not files:
            raise InputError(
                f"Cannot read '{name}': there is no such file, or no file in it ends "
                f"in {', '.join(_IN_FOLDERS)}, alone or before .gz, .bz2, .xz or .zst."
            )
        for file in files:
            _check_input(file)
            if inputs.setdefault(file.resolve(), file) is not file:
                raise InputError(f"The file '{file}' is given twice.")
    return Inputs(inputs.values(), left_out)


def _check_input(file: Path) -> None:
    if not file.is_file():
        raise InputError(
            f"Cannot read '{file}': it is neither a file nor a folder, and a corpus "
            "is read more than once."
        )
    if ending(file) in STRUCTURED and ending(file) not in JSON_LINES:
        reason = _why_not_by_name(file, form_of_head(head_of(file)))
        if reason:
            raise InputError(f"Cannot read '{file}': {reason}.")


def _files(
    name: Path,
    left_out: LeftOut,
    is_outside: Callable[[Path], bool],
    text_key: str,
) -> list[Path]:
    name = name.absolute()
    if name.is_dir():
        files = []
        for path in files_under(name, left_out, is_outside):
            if ending(path) in _IN_FOLDERS or _holds_documents(path, text_key):
                files.append(path)
            else:
                left_out.add("other endings", path)
        return files
    if not name.exists() and glob.has_magic(str(name)):
        shown = set(glob.glob(str(name), recursive=True))
        hidden = set(glob.glob(str(name), recursive=True, include_hidden=True)) - shown
        for path in map(Path, sorted(hidden)):
            if path.is_file() and not is_outside(path):
                left_out.add("hidden", path)
        paths = [path for path in map(Path, sorted(shown)) if not is_outside(path)]
        files = [path for path in paths if path.is_file()]
        for path in paths:
            if path.is_dir() and not any(file.is_relative_to(path) for file in files):
                left_out.add("folders that a pattern matches", path)
        return files
    return [name] if name.exists() else []


def _why_not_by_name(path: Path, form: str) -> str | None:
    """Why a file with this name is no corpus, unless its content is JSON."""
    name = STRUCTURED.get(ending(path))
    if name is None or ending(path) in JSON_LINES or form.startswith("json"):
        return None
    return (
        f"a corpus is JSON lines (.jsonl) or text (.txt), and its name says {name}; "
        "turn it into one of them, or give it the name of what it is"
    )


def _holds_documents(path: Path, text_key: str) -> bool:
    """Whether a file of any name is JSON lines, the first of them with a text."""
    head = head_of(path)
    if why_not_text(head) or form_of_head(head) != "json lines":
        return False
    # The key must be there: a vocabulary is an object too, with numbers for words.
    text = re.escape(json.dumps(text_key, ensure_ascii=False).encode()) + rb'\s*:\s*"'
    return bool(re.search(text, head.lstrip().splitlines()[0]))


def corpus_form(path: Path) -> str:
    """The form in which a file is read: `json lines` or `text`.

    Raises:
        ValueError: If its content is neither, or contradicts its name; the message
            says why.
    """
    head = head_of(path)
    binary, form = why_not_text(head), form_of_head(head)
    if binary:
        raise ValueError(f"it is {binary}")
    if by_name := _why_not_by_name(path, form):
        raise ValueError(by_name)
    if form in ("json array", "json"):
        what = "one JSON array" if form == "json array" else "one JSON object"
        raise ValueError(f"it is {what} and not JSON lines, an object on each line")
    if ending(path) in JSON_LINES:
        text = head.decode("utf-8", "replace")
        lines = [line.lstrip("\ufeff \t") for line in split_lines(text)]
        is_known = len(head) < HEAD_BYTES or len(lines) > 1
        if is_known and any(lines) and not any(line[:1] == "{" for line in lines):
            raise ValueError("its name says JSON lines and none of its lines is one")
        return "json lines"
    if form == "json lines" and ending(path) in TEXTS:
        raise ValueError(
            "its name says text and its first line is JSON; name it .jsonl to read "
            "the `text` of each line"
        )
    return "json lines" if form == "json lines" else "text"
